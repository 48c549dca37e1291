//! `{{.Label "name"}}`, a method of Docker's rows. The engine calls functions alone, so that the call is
//! written as one before it is read: `label .Label "name"`, where the field has all labels.

use gtmpl_ng::{FuncError, Value};
use shoal_types::spec::Labels;

/// The field of rows that has their labels, and what Docker calls the method.
pub(crate) const FIELD: &str = "Label";
const METHOD: &str = ".Label";

/// What the field holds.
pub(crate) fn field(labels: &Labels) -> String {
    serde_json::to_string(labels).unwrap_or_default()
}

/// The template with calls of the method as calls of [`label`].
pub(super) fn as_function(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut quote, mut before) = (false, None, ' ');
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let begins = inside && quote.is_none() && !before.is_alphanumeric() && before != '$';
        match (inside, quote) {
            (false, _) if rest.starts_with("{{") => inside = true,
            (true, None) if rest.starts_with("}}") => inside = false,
            (true, None) if matches!(c, '"' | '`' | '\'') => quote = Some(c),
            (true, Some('"')) if c == '\\' => {
                // What follows ends no string.
                out.push(c);
                rest = &rest[1..];
            }
            (true, Some(end)) if c == end => quote = None,
            _ => {}
        }
        if begins && rest.strip_prefix(METHOD).is_some_and(takes_argument) {
            out.push_str("label ");
        }
        let Some(c) = rest.chars().next() else { break };
        out.push(c);
        before = c;
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn takes_argument(after: &str) -> bool {
    let next = after.trim_start();
    next.len() < after.len() && next.starts_with(['"', '`', '$', '(', '.'])
}

/// The value of a label, empty if there is none; in the row of headings the last part of its name.
pub(super) fn label(args: &[Value]) -> Result<Value, FuncError> {
    let [Value::String(all), Value::String(name)] = args else {
        return Err(FuncError::UnableToConvertFromValue);
    };
    Ok(Value::from(match serde_json::from_str::<Labels>(all) {
        Ok(labels) => labels.get(name).cloned().unwrap_or_default(),
        Err(_) => name.rsplit('.').next().unwrap_or(name).replace(['-', '_'], " "),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::template::{Template, TemplateError};
    use super::*;

    #[test]
    fn labels_as_scripts_for_docker_ask_for_them() {
        let labels: Labels =
            [("a.b", "x, y=z"), ("c", "d")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let row = [("Name", "web".to_owned()), (FIELD, field(&labels))];
        let row = row.map(|(k, v)| (k.to_owned(), v)).into();
        let shown = |text: &str| -> Result<String, TemplateError> {
            let headings = [("Name", "NAME"), (FIELD, FIELD)];
            Template::new(text)?.rows(&headings, std::slice::from_ref(&row))
        };
        let cases = [
            ("{{.Label \"a.b\"}}", "x, y=z"),
            ("{{ .Name }}:{{ .Label `c` }}", "web:d"),
            ("{{.Label \"none\"}}", ""),
            ("{{if eq (.Label \"c\") \"d\"}}yes{{end}}", "yes"),
            ("{{.Label \"c\" | upper}}", "D"),
            ("table {{.Name}}\\t{{.Label \"my.a-b\"}}", "NAME   a b\nweb"),
            // No call of it.
            (".Label \"c\" {{printf \"%s .Label \\\" x\" .Name}}", ".Label \"c\" web .Label \" x"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
    }
}
