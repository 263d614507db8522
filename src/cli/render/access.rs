//! Keys and tokens as text.

use super::jobs::time;
use crate::api::{AccessView, AdminKeyChanged, AuditCheck, AuditLine, AuditList, TokenView};
use crate::cli::text::{Colour, Paint, cell, clean, left, painted, table};

/// `hive admin token list`.
pub(crate) fn tokens(view: &AccessView, paint: Paint) -> String {
    let key = match &view.admin_key {
        Some(key) => format!("admin key {} set by {} at {}\n", key.fingerprint, clean(&key.set_by), time(key.set_at)),
        None => "no admin key\n".to_owned(),
    };
    if view.tokens.is_empty() {
        return format!("{key}no tokens\n");
    }
    let columns = [left("TOKEN", 24), left("SCOPE", 20), left("EXPIRES", 20), left("BY", 24)];
    let row = |token: &TokenView| {
        let scope = match &token.drone {
            Some(drone) => format!("{} {}", token.scope, clean(drone)),
            None => token.scope.to_string(),
        };
        let expires = match (token.over, token.expires_at) {
            (true, _) => painted("over", Colour::Bad),
            (false, Some(at)) => cell(time(at)),
            (false, None) => cell("never"),
        };
        vec![cell(clean(&token.name)), cell(scope), expires, cell(clean(&token.made_by))]
    };
    let rows: Vec<_> = view.tokens.iter().map(row).collect();
    format!("{key}{}", table(&columns, &rows, paint))
}

/// `hive audit`, the newest first.
pub(crate) fn audit(list: &AuditList, paint: Paint) -> String {
    if list.entries.is_empty() {
        return "nobody has had anything done\n".to_owned();
    }
    let columns =
        [left("NUMBER", 8), left("AT", 20), left("BY", 20), left("FROM", 16), left("ACT", 44), left("WITH", 60)];
    let row = |line: &AuditLine| {
        let text = |text: &str| cell(clean(text));
        let AuditLine { by, from, act, summary, .. } = line;
        vec![cell(line.number.to_string()), cell(time(line.at)), text(by), text(from), text(act), text(summary)]
    };
    let rows: Vec<_> = list.entries.iter().map(row).collect();
    table(&columns, &rows, paint)
}

/// `hive audit --verify`.
pub(crate) fn audit_check(check: &AuditCheck, paint: Paint) -> String {
    let AuditCheck { entries, last, head, .. } = check;
    match &check.problem {
        Some(problem) => {
            let broken = painted("broken", Colour::Bad);
            let rows = [vec![broken, cell(format!("{}; compare with another node", clean(problem)))]];
            table(&[left("CHAIN", 8), left("WHY", 80)], &rows, paint)
        }
        None => format!("{entries} entries up to number {last} are what was written; the last has hash {head}\n"),
    }
}

/// `hive admin key rotate|set|remove`.
pub(crate) fn key_changed(changed: &AdminKeyChanged) -> String {
    let kept = changed.file.as_ref().map_or_else(String::new, |file| format!("kept in {}\n", file.display()));
    match (&changed.key, &changed.fingerprint) {
        (Some(key), _) => format!("{key}\n{kept}"),
        (None, Some(fingerprint)) => {
            format!("the hive's admin key is now the one with fingerprint {fingerprint}\n{kept}")
        }
        (None, None) => "the hive has no admin key any more\n".to_owned(),
    }
}
