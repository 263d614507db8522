//! The description of the API for programs (OpenAPI 3.1) and, made of it, for people.
//!
//! Paths, methods and who may use them come from the table of routes; what they take and give from [`PAGES`], whose shapes are those of the
//! types that the handlers use. The page is HTML without a script, and asks nobody for anything. Never done here: serving what is described.

mod pages;

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::{Method, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Map, Value, json};
use utoipa::PartialSchema as _;
use utoipa::openapi::{RefOr, Schema};

use self::pages::{Gives, PAGES, Page};
use super::app;
use super::escape::Text;
use super::replay;
use super::routes::{Door, table};
use crate::api::{ApiError, LogStatus};
use crate::engine::id::UnixMillis;

/// Shapes by name.
type Shapes = Vec<(String, RefOr<Schema>)>;

/// Made once: the table does not change while the agent runs.
static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// What is said of a route.
fn page_of(method: &Method, path: &str) -> Option<&'static Page> {
    PAGES.iter().find(|page| page.method == method.as_str() && page.path == path)
}

fn schema<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Whoever may not.
fn security(door: Door) -> (Value, &'static str) {
    let key = || json!([{ "key": [] }, { "bearer": [] }, { "session": [] }]);
    match door {
        Door::Anyone => (json!([]), "anyone"),
        Door::Secret => (json!([{ "secret": [] }]), "whoever proves to know the hive's secret"),
        Door::Legacy => (key(), "drones and operators of the build swarm; see legacy_drones"),
        Door::Key(scope) => (
            key(),
            match scope {
                crate::engine::access::Scope::Read => "scope read, at the admin port",
                crate::engine::access::Scope::Queue => "scope queue, at the admin port",
                crate::engine::access::Scope::Drone => "scope drone, at the admin port",
                crate::engine::access::Scope::Admin => "scope admin, at the admin port",
            },
        ),
        Door::SignIn => (json!([]), "whoever gives a key or has a session, at the admin port"),
        Door::Ticket => (json!([]), "whoever has a ticket for one terminal, at the admin port"),
        Door::Local => (json!([]), "the agent's own socket alone"),
    }
}

fn parameters(path: &str, page: Option<&Page>) -> Value {
    let named = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = named.map(|name| {
        let name = name.trim_start_matches('*');
        json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
    });
    let in_query = page.into_iter().flat_map(|page| page.query).map(
        |(name, about)| json!({ "name": name, "in": "query", "description": about, "schema": { "type": "string" } }),
    );
    let about = "a moment of the past, RFC 3339 or milliseconds since 1970: how it was then, with `as_of` that moment; code not_recorded when nothing is known of it";
    let at = json!({ "name": "at", "in": "query", "description": about, "schema": { "type": "string" } });
    let in_past = replay::PATHS.contains(&path).then_some(at);
    in_path.chain(in_query).chain(in_past).collect()
}

/// Data in the envelope in which the hive's own API answers.
fn enveloped(data: Value) -> Value {
    json!({
        "type": "object",
        "required": ["schema", "ok", "data"],
        "properties": {
            "schema": { "type": "integer", "const": crate::api::SCHEMA },
            "ok": { "type": "boolean", "const": true },
            "data": data,
            "as_of": { "$ref": "#/components/schemas/UnixMillis" },
            "log": { "$ref": "#/components/schemas/LogStatus" },
        },
    })
}

fn content(kind: &str, schema: Value) -> Value {
    json!({ kind: { "schema": schema } })
}

fn good(path: &str, page: Option<&Page>, shapes: &mut Shapes) -> Value {
    let content = match page.map(|page| &page.gives) {
        Some(Gives::Data(make)) => content("application/json", enveloped(schema(&make(shapes)))),
        Some(Gives::Bytes(kind)) => content(kind, json!({ "type": "string" })),
        None if app::PATHS.contains(&path) => content("text/html", json!({ "type": "string" })),
        Some(Gives::Bare) | None => content("application/json", json!({})),
    };
    json!({ "description": "It was done, or this is the answer.", "content": content })
}

fn operation(method: &Method, path: &str, door: Door, shapes: &mut Shapes) -> Value {
    let page = page_of(method, path);
    let (security, who) = security(door);
    let mut operation = Map::new();
    let dashboard = if app::PATHS.contains(&path) { "The dashboard." } else { "" };
    let about = page.map_or(dashboard, |page| page.about);
    operation.insert("summary".to_owned(), json!(about));
    operation.insert("description".to_owned(), json!(format!("Who may: {who}.")));
    operation.insert("operationId".to_owned(), json!(operation_id(method, path)));
    operation.insert("security".to_owned(), security);
    operation.insert("parameters".to_owned(), parameters(path, page));
    if let Some(make) = page.and_then(|page| page.takes) {
        let body = content("application/json", schema(&make(shapes)));
        operation.insert("requestBody".to_owned(), json!({ "required": true, "content": body }));
    }
    let error = json!({ "$ref": "#/components/responses/Error" });
    operation.insert("responses".to_owned(), json!({ "200": good(path, page, shapes), "default": error }));
    Value::Object(operation)
}

/// `get_api_v2_jobs_id_log`.
fn operation_id(method: &Method, path: &str) -> String {
    let plain: String = path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let words: Vec<&str> = plain.split('_').filter(|word| !word.is_empty()).collect();
    format!("{}_{}", method.as_str().to_lowercase(), if words.is_empty() { "page".to_owned() } else { words.join("_") })
}

fn document() -> Value {
    let mut shapes: Shapes = Vec::new();
    pages::shape::<LogStatus>(&mut shapes);
    pages::shape::<ApiError>(&mut shapes);
    shapes.push(("UnixMillis".to_owned(), UnixMillis::schema()));
    let mut paths: Map<String, Value> = Map::new();
    for route in table() {
        let path = route.path.replace("{*", "{");
        let operation = operation(&route.method, route.path, route.door, &mut shapes);
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[route.method.as_str().to_lowercase()] = operation;
    }
    let shapes: Map<String, Value> = shapes.iter().map(|(name, shape)| (name.clone(), schema(shape))).collect();
    let error = json!({
        "type": "object",
        "required": ["schema", "ok", "error"],
        "properties": {
            "schema": { "type": "integer" },
            "ok": { "type": "boolean", "const": false },
            "error": { "$ref": "#/components/schemas/ApiError" },
        },
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "hive",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One node of a hive. Paths below /api/v1 and /admin/api are those of the Python build swarm; their answers have no envelope.",
        },
        "servers": [{ "url": "." }],
        "paths": paths,
        "components": {
            "schemas": shapes,
            "responses": { "Error": { "description": "It was not done, and why.", "content": content("application/json", error) } },
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "X-Admin-Key" },
                "bearer": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": super::session::COOKIE },
                "secret": { "type": "apiKey", "in": "header", "name": super::auth::HEADER },
            },
        },
    })
}

/// For programs.
pub(super) async fn json() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{:#}\n", *DOCUMENT)).into_response()
}

/// For people.
pub(super) async fn page() -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html(&DOCUMENT)).into_response()
}

/// The last part of a reference, or what kind of thing it is.
fn shape_name(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or_default().to_owned();
    }
    match &schema["type"] {
        Value::String(kind) if kind == "array" => format!("list of {}", shape_name(&schema["items"])),
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            let one_of = schema["oneOf"].as_array().or(schema["anyOf"].as_array());
            one_of.map_or("any".to_owned(), |all| all.iter().map(shape_name).collect::<Vec<_>>().join(" or "))
        }
    }
}

/// Appends; writing to a String cannot fail.
fn put(page: &mut String, piece: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(piece);
}

fn html(document: &Value) -> String {
    let mut page = String::from(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n<title>hive · API</title>\n<link rel=icon href=icon.svg>\n\
         <link rel=stylesheet href=style.css>\n<main>\n<header><h1>API</h1><p class=dim>The same for programs: \
         <a href=openapi.json>openapi.json</a></p></header>\n",
    );
    let empty = Map::new();
    for (path, methods) in document["paths"].as_object().unwrap_or(&empty) {
        for (method, operation) in methods.as_object().unwrap_or(&empty) {
            operation_html(&mut page, path, method, operation);
        }
    }
    page.push_str("<h2>Shapes</h2>\n");
    for (name, shape) in document["components"]["schemas"].as_object().unwrap_or(&empty) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let about = text(&shape["description"]);
        put(&mut page, format_args!("<section id=\"{0}\"><h3>{0}</h3><p>{1}</p>\n", Text(name), Text(&about)));
        let fields = shape["properties"].as_object().filter(|fields| !fields.is_empty());
        if let Some(fields) = fields {
            page.push_str("<table><tr><th>Field<th>Kind<th>Meaning\n");
            for (field, schema) in fields {
                let (kind, about) = (shape_name(schema), text(&schema["description"]));
                put(&mut page, format_args!("<tr><td>{}<td>{}<td>{}\n", Text(field), Text(&kind), Text(&about)));
            }
            page.push_str("</table>\n");
        }
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n");
    page
}

fn operation_html(page: &mut String, path: &str, method: &str, operation: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (summary, who) = (text(&operation["summary"]), text(&operation["description"]));
    let method = method.to_uppercase();
    let heading = format_args!("<section><h3>{} {}</h3>\n<p>{}</p>\n", Text(&method), Text(path), Text(&summary));
    put(page, heading);
    put(page, format_args!("<p class=dim>{}</p>\n", Text(&who)));
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let (name, about) = (text(&parameter["name"]), text(&parameter["description"]));
        put(page, format_args!("<p class=dim>{}: {}</p>\n", Text(&name), Text(&about)));
    }
    let shapes = [
        ("takes", &operation["requestBody"]["content"]["application/json"]["schema"]),
        ("gives", &operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["data"]),
    ];
    for (word, schema) in shapes.into_iter().filter(|(_, schema)| !schema.is_null()) {
        let name = shape_name(schema);
        let anchor = name.rsplit(' ').next().unwrap_or_default();
        put(page, format_args!("<p>{word} <a href=\"#{}\">{}</a></p>\n", Text(anchor), Text(&name)));
    }
    page.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document = &*DOCUMENT;
        let mut known = BTreeSet::new();
        for route in table() {
            let path = route.path.replace("{*", "{");
            let operation = &document["paths"][&path][route.method.as_str().to_lowercase()];
            let what = format!("{} {}", route.method, route.path);
            assert!(operation.is_object(), "{what} is not in /openapi.json");
            let about = operation["summary"].as_str().unwrap_or_default();
            assert!(!about.is_empty(), "{what} has no row in web/openapi/pages.rs");
            assert!(known.insert(operation["operationId"].as_str().expect("an id").to_owned()), "{what}: one id each");
        }
        for page in PAGES {
            let found = table().into_iter().any(|route| route.method == page.method && route.path == page.path);
            assert!(found, "{} {} is described and does not exist", page.method, page.path);
        }
    }

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    found.insert(reference.to_owned());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_shape_that_is_named_is_there() {
        let mut found = BTreeSet::new();
        references(&DOCUMENT, &mut found);
        assert!(found.len() > 40, "{found:?}");
        for reference in found {
            let pointer = reference.trim_start_matches('#');
            assert!(DOCUMENT.pointer(pointer).is_some(), "{reference} is named and not described");
        }
        let status = &DOCUMENT["components"]["schemas"]["Status"]["properties"];
        assert!(status["quorum"]["type"] == "boolean" && status["self"].is_object(), "{status}");
    }

    #[test]
    fn the_page_for_people_asks_nobody_for_anything() {
        let page = html(&DOCUMENT);
        assert!(page.contains("<h3>GET /api/v2/jobs/{id}</h3>") && page.contains("id=\"JobView\""));
        for part in ["http://", "https://", "<script", "src="] {
            assert!(!page.contains(part), "{part}");
        }
    }
}
