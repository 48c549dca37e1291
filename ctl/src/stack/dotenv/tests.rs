use super::*;

fn read(text: &str) -> Result<String, String> {
    let outer = Variables::from([("OUT".to_owned(), "outer".to_owned())]);
    let lines = parse(text, &outer).map_err(|e| e.to_string())?.lines;
    let show = |(n, v): (String, Option<String>)| match v {
        Some(v) => format!("{n}={v}"),
        None => n,
    };
    Ok(lines.into_iter().map(show).collect::<Vec<_>>().join("|"))
}

#[test]
fn lines() {
    let cases = [
        ("A=1\n# no\n\nB = two words # c", "A=1|B=two words"),
        ("export A=x#y", "A=x#y"),
        ("A='$B # \"' # c", "A=$B # \""),
        ("A=\"a\\nb \\$X \\\"\"", "A=a\nb $X \""),
        ("A=1\nB=${A}2\nC=$OUT\nOUT=x\nD=$OUT", "A=1|B=12|C=outer|OUT=x|D=outer"),
        ("A\nB=", "A|B="),
        ("\u{feff}A=1\r\nB=2\r\n", "A=1|B=2"),
        ("A=${NO:-def}", "A=def"),
        ("A: 1\nB : two\nURL=http://x:1/y?a=b", "A=1|B=two|URL=http://x:1/y?a=b"),
        ("A='Let\\'s go!'\nB='C:\\dir'", "A=Let's go!|B=C:\\dir"),
        ("A=\"{\\\"hello\\\": \\\"json\\\"}\"", "A={\"hello\": \"json\"}"),
        (
            "A=\"some\\tvalue\"\nB='some\\tvalue'\nC=some\\tvalue",
            "A=some\tvalue|B=some\\tvalue|C=some\\tvalue",
        ),
        ("A='one\ntwo' # c\nB=\"three\r\n$A\"\nC=4", "A=one\ntwo|B=three\none\ntwo|C=4"),
        (
            "KEY=\"-----BEGIN PRIVATE KEY-----\nMIIE=\n-----END PRIVATE KEY-----\"\n",
            "KEY=-----BEGIN PRIVATE KEY-----\nMIIE=\n-----END PRIVATE KEY-----",
        ),
        ("A=x # c\nB='#x' # c\nC=#c\nD # c", "A=x|B=#x|C=|D"),
        ("A=\n B=1", "A=|B=1"),
        ("1A=x\n2=y\n.A=z\nÄ=1", "1A=x|2=y|.A=z|Ä=1"),
    ];
    for (text, expected) in cases {
        assert_eq!(read(text).as_deref(), Ok(expected), "{text:?}");
    }
}

#[test]
fn what_nobody_set_is_told() {
    let file =
        parse("PASS=pa$word\nA='$quoted'\nB=$PASS ${OUT-} ${word}", &Variables::new()).unwrap();
    assert_eq!(file.unset, ["word"]);
    let told: Vec<String> = file.warnings("x.env").collect();
    assert!(told[0].starts_with("x.env: variable word is not set"), "{told:?}");
}

#[test]
fn raw_lines_are_taken_as_they_are() {
    let read = |text: &str| parse_raw(text).map_err(|e| e.to_string());
    let line = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
    let text = "\u{feff}# no\n\n  A=\"x\" #y \nPASS=pa$word\nHERE\nB=\r\n";
    let expected = [
        line("A", Some("\"x\" #y ")),
        line("PASS", Some("pa$word")),
        line("HERE", None),
        line("B", Some("")),
    ];
    assert_eq!(read(text).unwrap(), expected);
    assert!(read("A=1\nA B=2").unwrap_err().starts_with("line 2: \"A B\" is not a variable name"));
    assert!(read("=2").is_err());
}

/// Docker's reader takes a carriage return off the end of every line, also of one that no newline ends.
#[test]
fn the_last_raw_line_ends_as_the_others() {
    for text in ["A=1\r", "A=1\r\n", "A=1\n", "A=1"] {
        assert_eq!(parse_raw(text).unwrap(), [("A".to_owned(), Some("1".to_owned()))], "{text:?}");
    }
    let two = parse_raw("A=1\r\r").unwrap();
    assert_eq!(two, [("A".to_owned(), Some("1\r".to_owned()))], "one of them");
}

#[test]
fn refusals() {
    let cases = [
        ("A=1\n=2", "line 2: \"\" is not a variable name"),
        ("A B=2", "\"A B\" is not a variable name"),
        ("A='x", "never closed"),
        ("A=1\nB='x\nC=2\n", "line 2: a single quote is never closed"),
        ("A='a\nb\n'\nB C=1", "line 4: \"B C\" is not a variable name"),
        ("A=\"x", "never closed"),
        ("A='x' y", "follows the closing quote"),
        ("A=${x", "never closed"),
    ];
    for (text, expected) in cases {
        let error = read(text).unwrap_err();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn values_that_double_with_each_line_end_somewhere() {
    let text = "A=0123456789\n".to_owned() + &"A=$A$A\n".repeat(200);
    assert!(parse(&text, &Variables::new()).unwrap_err().text.contains("longer than"));
    let text = format!("A={}\n{}", "x".repeat(100_000), "B=$A$A\n".repeat(1000));
    let error = parse(&text, &Variables::new()).unwrap_err();
    assert!(error.text.contains("when its variables are replaced"), "{error}");
}
