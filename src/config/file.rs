//! The TOML file: from text to values by key, each with the line it stands on.
//!
//! Unknown keys and wrong types are problems, all of them reported at once. Nothing is read from disk here.

use toml::de::{DeTable, DeValue};

use super::table::{self, SETTINGS};
use super::value::{Kind, Value};
use super::{ConfigError, Problem};

/// A value that stood in the file.
#[derive(Debug)]
pub(super) struct FileValue {
    /// Key of the setting.
    pub(super) key: &'static str,
    /// What it was set to.
    pub(super) value: Value,
    /// Where.
    pub(super) line: usize,
}

/// Reads the text of a file. `name` is what problems call it.
pub(super) fn parse(name: &str, text: &str) -> Result<Vec<FileValue>, ConfigError> {
    let document = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        ConfigError::one(Problem::in_file(name, line.unwrap_or(1), one_line(error.message())))
    })?;
    let mut reader = Reader { text, values: Vec::new(), problems: Vec::new() };
    reader.table("", document.get_ref());
    if reader.problems.is_empty() {
        return Ok(reader.values);
    }
    reader.problems.sort_by_key(|(line, _)| *line);
    let problems = reader.problems.into_iter().map(|(line, message)| Problem::in_file(name, line, message));
    Err(ConfigError { problems: problems.collect() })
}

struct Reader<'a> {
    text: &'a str,
    values: Vec<FileValue>,
    problems: Vec<(usize, String)>,
}

impl Reader<'_> {
    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table.iter() {
            let full = format!("{prefix}{}", key.get_ref());
            let line = line_of(self.text, key.span().start);
            if let Some(setting) = table::find(&full) {
                match setting.unset_word {
                    Some(word) if value.get_ref().as_str() == Some(word) => {
                        self.values.push(FileValue { key: setting.key, value: Value::Unset, line });
                    }
                    _ => self.value(setting, value.get_ref(), line_of(self.text, value.span().start)),
                }
            } else if SETTINGS.iter().any(|setting| setting.key.starts_with(&format!("{full}."))) {
                if let DeValue::Table(inner) = value.get_ref() {
                    self.table(&format!("{full}."), inner);
                } else {
                    self.problem(line, format!("expected a section [{full}], got a value"));
                }
            } else {
                let shown: String = full.chars().take(80).collect();
                let hint = nearest(&full).map_or_else(String::new, |known| format!("; did you mean `{known}`?"));
                self.problem(line, format!("expected a known key, got {shown:?}{hint}"));
            }
        }
    }

    fn value(&mut self, setting: &'static table::Setting, value: &DeValue<'_>, line: usize) {
        match setting.kind.from_toml(value) {
            Ok(Value::Tables(_)) => self.tables(setting, value, line),
            Ok(value) => self.values.push(FileValue { key: setting.key, value, line }),
            Err(message) => self.problem(line, format!("{}: {message}", setting.key)),
        }
    }

    /// Tables are handed on as they are, so they are taken from a second parse into owned values.
    fn tables(&mut self, setting: &'static table::Setting, value: &DeValue<'_>, line: usize) {
        debug_assert!(matches!(setting.kind, Kind::Tables));
        let lines = value
            .as_array()
            .map(|array| array.iter().map(|item| line_of(self.text, item.span().start)).collect::<Vec<_>>());
        let owned = self.text.parse::<toml::Table>().ok().and_then(|mut table| table.remove(setting.key));
        let tables = match owned {
            Some(toml::Value::Array(array)) => array
                .into_iter()
                .filter_map(|item| if let toml::Value::Table(table) = item { Some(table) } else { None }),
            _ => return self.problem(line, format!("{}: expected tables at the top level", setting.key)),
        };
        let value = Value::Tables(tables.zip(lines.unwrap_or_default()).collect());
        self.values.push(FileValue { key: setting.key, value, line });
    }

    fn problem(&mut self, line: usize, message: String) {
        self.problems.push((line, message));
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The known key that a typing error most likely meant.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let (distance, known) = SETTINGS.iter().map(|setting| (distance(key, setting.key), setting.key)).min()?;
    (distance <= 2 || (distance <= 4 && key.len() > 8)).then_some(known)
}

/// Number of insertions, deletions and replacements between two texts.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().take(80).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let error = parse("hive.toml", text).expect_err("refused");
        error.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_has_file_line_and_what_was_expected() {
        let text = "name = \"a b\"\nport = 70000\nprot = 1\n[discovery]\nmdns = true\n\n[build]\nslots = \"two\"\n";
        assert_eq!(
            problems(text),
            [
                "hive.toml:1: name: expected 1-63 characters of A-Z a-z 0-9 . _ -, a letter or digit first, got \"a b\"",
                "hive.toml:2: port: expected a whole number from 1 to 65535, got the number 70000",
                "hive.toml:3: expected a known key, got \"prot\"; did you mean `port`?",
                "hive.toml:5: discovery.mdns: expected one of on, off, got true",
                "hive.toml:8: build.slots: expected a whole number from 0 to 256, got \"two\"",
            ]
        );
    }

    #[test]
    fn syntax_sections_and_types_are_checked() {
        assert!(problems("a = \n")[0].starts_with("hive.toml:1: "), "{:?}", problems("a = \n"));
        assert!(problems("port = 1\nport = 2\n")[0].starts_with("hive.toml:2: "));
        assert_eq!(problems("build = 3"), ["hive.toml:1: expected a section [build], got a value"]);
        assert_eq!(problems("[buidl]\nx = 1"), ["hive.toml:1: expected a known key, got \"buidl\""]);
        assert_eq!(problems("state_dir = \"x/y\""), ["hive.toml:1: state_dir: expected an absolute path, got \"x/y\""]);
        assert!(problems("join = \"build1\"")[0].contains("expected a list of texts, each HOST[:PORT]"));
        assert!(problems("join = [\"build1\", 3]")[0].contains("got an array"));
        assert!(problems("facts = 3")[0].contains("expected tables"));
    }

    #[test]
    fn values_keep_their_lines_and_tables_their_content() {
        let text = "port = 4_000\nhelper = \"none\"\njoin = [\n  \"a\",\n  \"b:1\",\n]\n[[facts]]\nname = \"x\"\n[[facts]]\nname = \"y\"\n";
        let values = parse("f", text).expect("good");
        let by_key = |key: &str| values.iter().find(|value| value.key == key).expect("there");
        assert_eq!((&by_key("port").value, by_key("port").line), (&Value::Integer(4_000), 1));
        assert_eq!(by_key("helper").value, Value::Unset);
        assert_eq!(by_key("join").value, Value::List(vec!["a".into(), "b:1".into()]));
        let Value::Tables(tables) = &by_key("facts").value else { panic!("tables") };
        assert_eq!(tables.iter().map(|(_, line)| *line).collect::<Vec<_>>(), [7, 9]);
        assert_eq!(tables[1].0["name"].as_str(), Some("y"));
    }
}
