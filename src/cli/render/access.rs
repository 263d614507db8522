//! Keys and tokens as text.

use super::jobs::time;
use crate::api::{AccessView, AdminKeyChanged, TokenView};
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
