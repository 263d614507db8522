//! The reference of all settings, made from the table: for README and `hive config reference`.

use std::fmt::Write as _;

use super::table::{Default, INHERITED, SETTINGS, Setting};
use super::value::Kind;

fn default_text(setting: &Setting) -> String {
    match setting.default {
        Default::Text(text) => format!("`{text}`"),
        Default::Unset(what) => what.to_owned(),
        Default::PerUser(system, plain) => {
            let plain = plain
                .replace("{config}", "~/.config")
                .replace("{state}", "~/.local/state")
                .replace("{run}", "$XDG_RUNTIME_DIR");
            format!("`{system}`; as a plain user `{plain}`")
        }
    }
}

/// A Markdown table of all settings.
pub fn reference() -> String {
    let mut out = String::from("| key | flag | variable | default | meaning |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let flags = flag_text(setting);
        let variable = setting.variable().map_or_else(|| "-".to_owned(), |name| format!("`{name}`"));
        let mut meaning = setting.meaning.to_owned();
        if matches!(setting.kind, Kind::Integer { .. } | Kind::Choice(_)) {
            let _ = write!(meaning, " Takes {}.", setting.kind.expected());
        }
        if !setting.advice.is_empty() {
            let _ = write!(meaning, " {}", setting.advice);
        }
        let row = [format!("`{}`", setting.key), flags, variable, default_text(setting), meaning];
        let _ = writeln!(out, "| {} |", row.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    out.push_str("\nNames of the build swarm that are understood:");
    for (variable, key, form) in INHERITED {
        let _ = write!(out, " `{variable}` sets `{key}` to `{}`;", form.replace("{}", "…"));
    }
    out.push_str(" `SWARMV3_URL` is read by the commands like `HIVE_URL`, `ADMIN_KEY` and `ADMIN_SECRET` like `HIVE_ADMIN_KEY`.\n");
    out
}

fn flag_text(setting: &Setting) -> String {
    let Some(flag) = setting.flag() else { return "-".to_owned() };
    if !setting.switches.is_empty() {
        return setting.switches.iter().map(|(switch, _)| format!("`--{switch}`")).collect::<Vec<_>>().join(", ");
    }
    let repeated = if matches!(setting.kind, Kind::List { .. }) { " …" } else { "" };
    format!("`--{flag} {}`{repeated}", setting.placeholder)
}

/// A config file with every setting commented out at its default, with its explanation.
pub fn example_file() -> String {
    let mut out = String::from(
        "# hive.toml: everything is optional. Flags win over variables (HIVE_...), which win over this file.\n",
    );
    let mut section = "";
    let (plain, sectioned): (Vec<&Setting>, Vec<&Setting>) =
        SETTINGS.iter().partition(|setting| !setting.key.contains('.'));
    let (tables, plain): (Vec<&Setting>, Vec<&Setting>) =
        plain.into_iter().partition(|setting| matches!(setting.kind, Kind::Tables));
    for setting in plain.into_iter().chain(sectioned) {
        let key = match setting.key.split_once('.') {
            Some((name, key)) => {
                if name != section {
                    let _ = write!(out, "\n[{name}]\n");
                    section = name;
                }
                key
            }
            None => setting.key,
        };
        let _ = write!(out, "\n# {}", setting.meaning);
        if !setting.advice.is_empty() {
            let _ = write!(out, "\n# {}", setting.advice);
        }
        let _ = write!(out, "\n# Default: {}", default_text(setting).replace('`', ""));
        let _ = write!(out, "\n# {key} = {}\n", example_value(setting));
    }
    for setting in tables {
        let _ = write!(out, "\n# {}\n# [[{}]]\n", setting.meaning, setting.key);
    }
    out
}

fn example_value(setting: &Setting) -> String {
    let text = match setting.default {
        Default::Text(text) | Default::PerUser(text, _) => text,
        Default::Unset(_) => "",
    };
    match setting.kind {
        Kind::Integer { min, .. } if text.is_empty() => min.to_string(),
        Kind::Integer { .. } | Kind::Switch => text.to_owned(),
        Kind::List { .. } => "[]".to_owned(),
        Kind::Text { .. } | Kind::Path | Kind::Choice(_) | Kind::Tables => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reference_and_example_name_every_setting() {
        let (reference, example) = (reference(), example_file());
        for setting in SETTINGS {
            assert!(reference.contains(&format!("| `{}` |", setting.key)), "{}", setting.key);
            let last = setting.key.rsplit('.').next().expect("not empty");
            assert!(example.contains(&format!("# {last} = ")) || example.contains(&format!("[[{last}]]")), "{last}");
        }
        assert!(reference.lines().filter(|line| line.starts_with("| ")).all(|line| line.matches(" | ").count() == 4));
        example.parse::<toml::Table>().expect("is TOML as it stands");
    }
}
