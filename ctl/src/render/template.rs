//! Go templates, as scripts for Docker use them: `{{.Name}}`, `table {{.ID}}\t{{.Name}}`,
//! `{{json .}}`. In lists the placeholders are Docker's; in objects they are the names that JSON has.

use std::collections::BTreeMap;
use std::time::Duration;

use gtmpl_ng::{Context, Func, FuncError, Limits, NumberKind, Value};
use serde_json::Value as Json;

use super::absent;
use super::label;
use super::table::{draw, whole};

/// Bytes of a template; scripts have less than a hundred.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Parentheses and actions of a template; people write a handful of each.
const PARENTHESES_MAX: usize = 64;
const ACTIONS_MAX: usize = 512;
/// Stack of the thread that reads and runs a template: a hundred levels in a build for debugging
/// take more than two mebibytes.
const STACK_BYTES: usize = 64 << 20;
/// How long one object may take.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Fields whose keys users chose: one that is absent has no value, rather than being a mistake.
pub(super) const MAPS: [&str; 6] =
    ["Labels", "Options", "Sysctls", "DriverOpts", "Services", "Networks"];

/// Why a template cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("expected table, json or a Go template such as '{{{{.Name}}}}'")]
    Unknown,
    #[error("the template has {0} bytes, more than the {TEXT_BYTES_MAX} that are taken")]
    TooLong(usize),
    #[error(
        "the template has {parentheses} parentheses and {actions} actions, \
         more than the {PARENTHESES_MAX} and {ACTIONS_MAX} that are taken"
    )]
    TooMany { parentheses: usize, actions: usize },
    #[error("the template cannot be read: {0}")]
    Syntax(String),
    #[error("the template asks for {field:?}: expected one of {known}")]
    NoField { field: String, known: String },
    #[error("the template cannot be used here: {0}")]
    Execution(String),
}

/// A template that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    text: String,
    /// Columns with headings, apart by tabs.
    table: bool,
}

impl Template {
    /// # Errors
    /// When the text is no template.
    pub(crate) fn new(text: &str) -> Result<Self, TemplateError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(TemplateError::TooLong(text.len()));
        }
        // The engine reads parentheses and blocks by recursion without a limit of its own.
        let parentheses = text.matches('(').count();
        let actions = text.matches("{{").count();
        if parentheses > PARENTHESES_MAX || actions > ACTIONS_MAX {
            return Err(TemplateError::TooMany { parentheses, actions });
        }
        // Scripts write both between plain quotes.
        let text = label::as_function(&text.replace("\\t", "\t").replace("\\n", "\n"));
        let template = match text.strip_prefix("table") {
            Some(rest) if rest.starts_with([' ', '\t']) => {
                Self { text: rest.trim_start().to_owned(), table: true }
            }
            _ => Self { text, table: false },
        };
        with_room(|| template.parsed().map(|_| ()))?;
        Ok(template)
    }

    fn parsed(&self) -> Result<gtmpl_ng::Template, TemplateError> {
        let mut parsed = gtmpl_ng::Template::with_limits(Limits::default().with_deadline(TIME_MAX));
        parsed.add_funcs(&FUNCTIONS);
        parsed.parse(self.text.as_str()).map_err(|e| TemplateError::Syntax(e.to_string()))?;
        Ok(parsed)
    }

    /// Objects, one a line.
    ///
    /// # Errors
    /// When the template asks for what they do not have.
    pub(crate) fn objects(&self, objects: &[Json]) -> Result<String, TemplateError> {
        with_room(|| {
            let parsed = self.parsed()?;
            let lines: Result<Vec<String>, _> = objects
                .iter()
                .map(|object| render(&parsed, &value(&absent::filled(object.clone()), false)))
                .collect();
            Ok(lines?.join("\n"))
        })
    }

    /// Rows of a list, one a line, each with its fields by placeholder. The headings are those of
    /// the placeholders.
    ///
    /// # Errors
    /// When the template asks for a field that the list does not have.
    pub(crate) fn rows(
        &self,
        headings: &[(&str, &str)],
        rows: &[BTreeMap<String, String>],
    ) -> Result<String, TemplateError> {
        with_room(|| self.rows_here(headings, rows))
    }

    fn rows_here(
        &self,
        headings: &[(&str, &str)],
        rows: &[BTreeMap<String, String>],
    ) -> Result<String, TemplateError> {
        let parsed = self.parsed()?;
        let object = |fields: Vec<(String, Value)>| Value::Object(fields.into_iter().collect());
        let head = object(
            headings
                .iter()
                .map(|(field, name)| ((*field).to_owned(), Value::from(*name)))
                .collect(),
        );
        // Also when there is no row: a mistake in a script shows at once.
        let head = render(&parsed, &head)?;
        let mut lines = Vec::with_capacity(rows.len());
        for row in rows {
            let fields = row.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect();
            lines.push(render(&parsed, &object(fields))?);
        }
        if !self.table {
            return Ok(lines.join("\n"));
        }
        let cells = |line: &String| line.split('\t').map(str::to_owned).collect::<Vec<String>>();
        let all: Vec<Vec<String>> = std::iter::once(&head).chain(&lines).map(cells).collect();
        let most = all.iter().map(Vec::len).max().unwrap_or(0);
        let columns = vec![whole(""); most];
        Ok(draw(&columns, all, None).trim_start_matches('\n').to_owned())
    }
}

fn render(template: &gtmpl_ng::Template, value: &Value) -> Result<String, TemplateError> {
    template.render(&Context::from(value.clone())).map_err(|error| {
        let message = match error.as_structured() {
            Some(error) => error.message.clone(),
            None => error.to_string(),
        };
        // The error has the object, but as text alone.
        let missing = message.strip_prefix("no field `").and_then(|rest| rest.split_once("` in "));
        match missing.and_then(|(field, shown)| Some((field, fields_of(value, shown)?))) {
            Some((field, known)) => {
                TemplateError::NoField { field: field.to_owned(), known: known.join(", ") }
            }
            None => TemplateError::Execution(message),
        }
    })
}

/// The fields of the object that is shown so.
fn fields_of(value: &Value, shown: &str) -> Option<Vec<String>> {
    match value {
        Value::Object(fields) if value.to_string() == shown => {
            let mut names: Vec<String> = fields.keys().cloned().collect();
            names.sort_unstable();
            Some(names)
        }
        Value::Object(fields) | Value::Map(fields) => {
            fields.values().find_map(|below| fields_of(below, shown))
        }
        Value::Array(items) => items.iter().find_map(|below| fields_of(below, shown)),
        _ => None,
    }
}

/// Does its work where the nesting that the engine allows has room, also in a build for debugging.
fn with_room<T: Send>(
    work: impl FnOnce() -> Result<T, TemplateError> + Send,
) -> Result<T, TemplateError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let failed = |why: String| TemplateError::Execution(why);
        let worker = thread.spawn_scoped(scope, work).map_err(|e| failed(e.to_string()))?;
        worker.join().map_err(|_| failed("the engine broke off".to_owned()))?
    })
}

/// A document as templates see it; `open` where users chose the keys.
fn value(json: &Json, open: bool) -> Value {
    match json {
        // What has no value has no fields either, and asking for one is no mistake.
        Json::Null => Value::NoValue,
        Json::Bool(b) => Value::from(*b),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::Array(items.iter().map(|i| value(i, false)).collect()),
        Json::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(k, v)| (k.clone(), value(v, MAPS.contains(&k.as_str()))))
                .collect();
            if open { Value::Map(fields) } else { Value::Object(fields) }
        }
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(number.as_f64().unwrap_or_default()),
        },
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::Bool(b) => Json::from(*b),
        Value::String(text) => Json::from(text.as_str()),
        Value::Array(items) => Json::Array(items.iter().map(to_json).collect()),
        Value::Object(fields) | Value::Map(fields) => {
            let sorted: BTreeMap<&String, Json> =
                fields.iter().map(|(k, v)| (k, to_json(v))).collect();
            Json::Object(sorted.into_iter().map(|(k, v)| (k.clone(), v)).collect())
        }
        Value::Number(number) => match number.kind() {
            NumberKind::Signed(n) => Json::from(n),
            NumberKind::Unsigned(n) => Json::from(n),
            NumberKind::Float(n) => Json::from(n),
        },
        _ => Json::Null,
    }
}

/// What Docker adds to Go's own functions.
const FUNCTIONS: [(&str, Func); 9] = [
    ("label", label::label),
    ("json", json),
    ("split", split),
    ("join", join),
    ("title", title),
    ("lower", lower),
    ("upper", upper),
    ("pad", pad),
    ("truncate", truncate),
];

fn json(args: &[Value]) -> Result<Value, FuncError> {
    let [value] = args else { return Err(FuncError::ExactlyXArgs("json".to_owned(), 1)) };
    Ok(Value::from(absent::emptied(to_json(value)).to_string()))
}

fn text(args: &[Value], i: usize) -> Result<&str, FuncError> {
    match args.get(i) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(FuncError::UnableToConvertFromValue),
    }
}

/// Numbers of blanks and characters; nobody needs more than a line.
fn number(args: &[Value], i: usize) -> Result<usize, FuncError> {
    let number = match args.get(i) {
        Some(Value::Number(number)) => match number.kind() {
            NumberKind::Signed(n) => usize::try_from(n).ok(),
            NumberKind::Unsigned(n) => usize::try_from(n).ok(),
            NumberKind::Float(_) => None,
        },
        _ => None,
    };
    number.filter(|n| *n <= 4096).ok_or(FuncError::UnableToConvertFromValue)
}

fn split(args: &[Value]) -> Result<Value, FuncError> {
    let (whole, by) = (text(args, 0)?, text(args, 1)?);
    Ok(Value::Array(whole.split(by).map(Value::from).collect()))
}

fn join(args: &[Value]) -> Result<Value, FuncError> {
    let Some(Value::Array(items)) = args.first() else {
        return Err(FuncError::UnableToConvertFromValue);
    };
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    Ok(Value::from(texts.join(text(args, 1)?)))
}

fn title(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::from(super::words::capital(text(args, 0)?)))
}

fn lower(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::from(text(args, 0)?.to_lowercase()))
}

fn upper(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::from(text(args, 0)?.to_uppercase()))
}

fn pad(args: &[Value]) -> Result<Value, FuncError> {
    let (before, after) = (" ".repeat(number(args, 1)?), " ".repeat(number(args, 2)?));
    Ok(Value::from(format!("{before}{}{after}", text(args, 0)?)))
}

fn truncate(args: &[Value]) -> Result<Value, FuncError> {
    Ok(Value::from(text(args, 0)?.chars().take(number(args, 1)?).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rows() -> Vec<BTreeMap<String, String>> {
        let row = |id: &str, name: &str| {
            [("ID", id), ("Name", name)].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        };
        vec![row("1", "web"), row("22", "database")]
    }

    fn listed(text: &str) -> Result<String, TemplateError> {
        Template::new(text)?.rows(&[("ID", "ID"), ("Name", "NAME")], &rows())
    }

    #[test]
    fn lists_as_scripts_for_docker_ask_for_them() {
        let cases = [
            ("{{.Name}}", "web\ndatabase"),
            ("{{ .ID }}={{.Name}}", "1=web\n22=database"),
            ("{{.ID}}\\t{{.Name}}", "1\tweb\n22\tdatabase"),
            ("table {{.ID}}\\t{{.Name}}", "ID   NAME\n1    web\n22   database"),
            ("table {{.Name}}", "NAME\nweb\ndatabase"),
            (
                "{{json .}}",
                "{\"ID\":\"1\",\"Name\":\"web\"}\n{\"ID\":\"22\",\"Name\":\"database\"}",
            ),
            ("{{if eq .Name \"web\"}}W{{else}}D{{end}}", "W\nD"),
            ("{{upper .Name}}{{pad .ID 1 0}}", "WEB 1\nDATABASE 22"),
            ("{{truncate .Name 2}}{{join (split .Name \"a\") \"-\"}}", "weweb\ndad-t-b-se"),
            ("{{printf \"%-4s|\" .ID}}", "1   |\n22  |"),
        ];
        for (text, expected) in cases {
            assert_eq!(listed(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn objects_by_the_names_that_json_has() {
        let object = json!({
            "ID": "a", "Spec": { "Name": "web", "Labels": { "k": "v", "a.b": "c" }, "Ports": [80, 81] },
        });
        let cases = [
            ("{{.Spec.Name}}", "web"),
            ("{{index .Spec.Labels \"a.b\"}}", "c"),
            ("{{range $k, $v := .Spec.Labels}}{{$k}}={{$v}} {{end}}", "a.b=c k=v "),
            ("{{range .Spec.Ports}}{{.}},{{end}}", "80,81,"),
            ("{{json .Spec.Ports}}", "[80,81]"),
            ("{{len .Spec.Ports}}", "2"),
            ("{{.Spec.Labels.nothing}}", "<no value>"),
        ];
        for (text, expected) in cases {
            let template = Template::new(text).unwrap();
            assert_eq!(
                template.objects(std::slice::from_ref(&object)).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn a_mistake_names_what_there_is() {
        assert_eq!(
            listed("{{.Nmae}}").unwrap_err().to_string(),
            "the template asks for \"Nmae\": expected one of ID, Name"
        );
        let none = Template::new("{{.Nmae}}").unwrap().rows(&[("ID", "ID")], &[]);
        assert!(none.is_err(), "also without a row");
        for text in ["{{.Name", "{{nosuch .}}", "{{range .Name}}", "{{if}}{{end}}"] {
            assert!(Template::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistake_inside_an_object_names_what_there_is_there() {
        let object = json!({ "Spec": { "Name": "web", "Mode": {} }, "List": [{ "Port": 1 }] });
        let cases = [
            ("{{.Spec.Nmae}}", "asks for \"Nmae\": expected one of Mode, Name"),
            ("{{range .List}}{{.Prt}}{{end}}", "asks for \"Prt\": expected one of Port"),
        ];
        for (text, expected) in cases {
            let error = Template::new(text).unwrap().objects(std::slice::from_ref(&object));
            let error = error.unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn the_work_is_bounded() {
        let endless = [
            "{{define \"r\"}}{{template \"r\" .}}{{end}}{{template \"r\" .}}",
            "{{range 1000000000}}x{{end}}",
            "{{range 9999}}{{range 9999}}{{range 9999}}{{end}}{{end}}{{end}}",
            "{{pad .Name 2000000000 0}}",
        ];
        for text in endless {
            assert!(listed(text).is_err(), "{text}");
        }
        let wide = listed("{{printf \"%2000000000d\" 1}}");
        assert!(wide.is_err() || wide.is_ok_and(|text| text.len() < 1 << 20));
        let deep = format!("{{{{{}.Name{}}}}}", "(".repeat(7000), ")".repeat(7000));
        assert!(listed(&deep).is_err());
        let nested = |n: usize| "{{if .Name}}".repeat(n) + &"{{end}}".repeat(n);
        assert!(listed(&nested(1000)).is_err());
        // What is taken ends in an answer of either kind, and not with the process.
        let _ = listed(&nested(255));
        assert!(matches!(Template::new(&"{{.}}".repeat(9999)), Err(TemplateError::TooLong(_))));
    }
}
