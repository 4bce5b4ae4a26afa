//! The operations of a document, each as a tool: its name, what it says of itself, and where its arguments go.

use std::collections::HashSet;

use http::Method;
use orch_domain::text;
use serde_json::{Map, Value, json};

use super::document::Document;
use super::schema::Schemas;
use crate::frame::{Raw, raw};

/// More than any client could show.
const MAX_OPERATIONS: usize = 2000;
const MAX_NAME: usize = 64;
const MAX_DESCRIPTION: usize = 4000;
const METHODS: [(&str, Method); 5] = [
    ("get", Method::GET),
    ("post", Method::POST),
    ("put", Method::PUT),
    ("patch", Method::PATCH),
    ("delete", Method::DELETE),
];
/// What of the headers is not an argument, as OpenAPI has it.
const OWN_HEADERS: [&str; 3] = ["accept", "content-type", "authorization"];
/// The argument that is a whole body.
pub(super) const BODY: &str = "body";

#[derive(Debug)]
pub(super) struct Operation {
    pub(super) name: String,
    /// As a list of tools has it.
    pub(super) tool: Raw,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<Body>,
}

#[derive(Debug)]
pub(super) struct Parameter {
    /// What the tool calls it.
    pub(super) argument: String,
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) is_required: bool,
    /// How lists and objects are written.
    pub(super) style: String,
    pub(super) explode: bool,
    /// Its value is written as JSON.
    pub(super) is_json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Path,
    Query,
    Header,
    Cookie,
}

#[derive(Debug)]
pub(super) struct Body {
    pub(super) media_type: String,
    pub(super) form: Form,
    /// It is the argument `body`, and not made of all arguments that go nowhere else.
    pub(super) is_whole: bool,
    pub(super) is_required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Urlencoded,
    Text,
}

/// In the order of the document's paths; what cannot be called is left out, with a word in the log.
pub(super) fn operations(document: &Document) -> Vec<Operation> {
    let mut out = Vec::new();
    let mut names = HashSet::new();
    for (path, item) in document.root["paths"].as_object().into_iter().flatten() {
        let Some(item) = document.resolved(item) else { continue };
        for (word, method) in METHODS {
            let Some(said) = item.get(word).filter(|it| it.is_object()) else { continue };
            if MAX_OPERATIONS <= out.len() {
                tracing::warn!("the document has more than {MAX_OPERATIONS} operations");
                return out;
            }
            let name = unique(name_of(said, word, path), &mut names);
            match operation(document, item, said, method, path, name) {
                Ok(it) => out.push(it),
                Err(why) => tracing::warn!("`{word} {path}` is no tool: {why}"),
            }
        }
    }
    out
}

fn name_of(said: &Value, method: &str, path: &str) -> String {
    let plain = |text: &str| -> String {
        let is_allowed = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-');
        let text: String = text.chars().map(|it| if is_allowed(it) { it } else { '_' }).collect();
        text.trim_matches('_').to_owned()
    };
    let id = said["operationId"].as_str().map(plain).filter(|it| !it.is_empty());
    let mut name = id.unwrap_or_else(|| {
        let parts: Vec<String> = path.split('/').map(plain).filter(|it| !it.is_empty()).collect();
        [&[method.to_owned()], parts.as_slice()].concat().join("_")
    });
    name.truncate(MAX_NAME);
    name
}

fn unique(name: String, names: &mut HashSet<String>) -> String {
    let mut found = name.clone();
    let mut n = 1;
    while !names.insert(found.clone()) {
        n += 1;
        let suffix = format!("_{n}");
        found = format!("{}{suffix}", &name[..name.len().min(MAX_NAME - suffix.len())]);
    }
    found
}

fn operation(
    document: &Document,
    item: &Value,
    said: &Value,
    method: Method,
    path: &str,
    name: String,
) -> Result<Operation, String> {
    let mut schemas = Schemas::of(document);
    let mut properties = Map::new();
    let mut required = Vec::new();
    let mut parameters = Vec::new();
    for said in parameters_of(document, item, said) {
        let Some(mut parameter) = parameter(said)? else { continue };
        if properties.contains_key(&parameter.argument) {
            // The same name in another place, such as `id` of the path and of the query.
            parameter.argument = format!("{}_{}", parameter.place.word(), parameter.name);
        }
        let schema = match said.get("schema").or_else(|| content_of(said).map(|(_, it)| it)) {
            Some(it) => schemas.standalone(it),
            None => json!({}),
        };
        if parameter.is_required {
            required.push(parameter.argument.clone());
        }
        properties.insert(parameter.argument.clone(), described(schema, said));
        parameters.push(parameter);
    }
    let body = match said.get("requestBody").and_then(|it| document.resolved(it)) {
        Some(it) => body(document, it, &mut schemas, &mut properties, &mut required)?,
        None => None,
    };
    let mut input = Map::from_iter([("type".to_owned(), json!("object"))]);
    input.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        input.insert("required".to_owned(), json!(required));
    }
    let mut tool = json!({
        "name": name,
        "description": description(said, &method, path),
        "inputSchema": schemas.with_defs(input),
        "annotations": annotations(&method),
    });
    if let Some(title) = said["summary"].as_str().filter(|it| !it.is_empty()) {
        tool["title"] = text::excerpt(title, 100).into();
    }
    if let Some(schema) = output_schema(document, said) {
        tool["outputSchema"] = schema;
    }
    Ok(Operation { name, tool: raw(&tool), method, path: path.to_owned(), parameters, body })
}

/// Those of the operation, and those of its path that it does not say anew.
fn parameters_of<'a>(document: &'a Document, item: &'a Value, said: &'a Value) -> Vec<&'a Value> {
    let of = |it: &'a Value| -> Vec<&'a Value> {
        let listed = it["parameters"].as_array().into_iter().flatten();
        listed.filter_map(|it| document.resolved(it)).collect()
    };
    let own = of(said);
    let is_said_anew =
        |it: &&Value| own.iter().any(|own| own["name"] == it["name"] && own["in"] == it["in"]);
    let mut all: Vec<&Value> = of(item).into_iter().filter(|it| !is_said_anew(it)).collect();
    all.extend(&own);
    all
}

fn parameter(said: &Value) -> Result<Option<Parameter>, String> {
    let name = said["name"].as_str().unwrap_or_default().to_owned();
    let place = match said["in"].as_str().unwrap_or_default() {
        "path" => Place::Path,
        "query" => Place::Query,
        "header" => Place::Header,
        "cookie" => Place::Cookie,
        other => return Err(format!("`{name}` is in `{}`", text::excerpt(other, 40))),
    };
    if name.is_empty()
        || place == Place::Header && OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str())
    {
        return Ok(None);
    }
    let default_style = match place {
        Place::Path | Place::Header => "simple",
        Place::Query | Place::Cookie => "form",
    };
    let style = said["style"].as_str().unwrap_or(default_style).to_owned();
    Ok(Some(Parameter {
        argument: name.clone(),
        name,
        place,
        is_required: place == Place::Path || said["required"] == true,
        explode: said["explode"].as_bool().unwrap_or(style == "form" || style == "deepObject"),
        style,
        is_json: said.get("schema").is_none() && content_of(said).is_some(),
    }))
}

/// A schema with the words about what it stands for.
fn described(mut schema: Value, said: &Value) -> Value {
    if let (Value::Object(schema), Some(words)) = (&mut schema, said["description"].as_str()) {
        schema.insert("description".to_owned(), words_of(words).into());
    }
    schema
}

/// The media type that is JSON, with its schema.
fn content_of(said: &Value) -> Option<(&str, &Value)> {
    let content = said["content"].as_object()?;
    let (media_type, it) = content.iter().find(|(it, _)| is_json(it))?;
    Some((media_type, it.get("schema").unwrap_or(&Value::Bool(true))))
}

pub(super) fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}

fn body<'a>(
    document: &'a Document,
    said: &'a Value,
    schemas: &mut Schemas<'a>,
    properties: &mut Map<String, Value>,
    required: &mut Vec<String>,
) -> Result<Option<Body>, String> {
    let Some(content) = said["content"].as_object().filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    let of = |wanted: &str| content.keys().find(|it| it.starts_with(wanted));
    let (media_type, form) = if let Some((it, _)) = content_of(said) {
        (it.to_owned(), Form::Json)
    } else if let Some(it) = of("application/x-www-form-urlencoded") {
        (it.clone(), Form::Urlencoded)
    } else if let Some(it) = of("text/").or_else(|| of("*/*")) {
        (it.clone(), Form::Text)
    } else {
        let known: Vec<&str> = content.keys().map(String::as_str).collect();
        return Err(format!("its body is of the type {}", text::excerpt(&known.join(", "), 100)));
    };
    let schema = content[&media_type].get("schema").unwrap_or(&Value::Bool(true));
    let is_required = said["required"] == true;
    let mut flat = Flat::default();
    let is_flat = form != Form::Text
        && flat.take(document, schema, 0)
        && flat.properties.iter().all(|(it, _)| !properties.contains_key(*it));
    if is_flat {
        for (name, schema) in flat.properties {
            properties.insert(name.to_owned(), schemas.standalone(schema));
        }
        if is_required {
            required.extend(flat.required.into_iter().map(str::to_owned));
        }
    } else {
        if properties.contains_key(BODY) {
            return Err("it has both a body and a parameter `body`".to_owned());
        }
        let schema =
            if form == Form::Text { json!({"type": "string"}) } else { schemas.standalone(schema) };
        properties.insert(BODY.to_owned(), described(schema, said));
        if is_required {
            required.push(BODY.to_owned());
        }
    }
    Ok(Some(Body { media_type, form, is_whole: !is_flat, is_required }))
}

/// The members of a body that is an object, over all that it is put together from.
#[derive(Default)]
struct Flat<'a> {
    properties: Vec<(&'a str, &'a Value)>,
    required: Vec<&'a str>,
}

impl<'a> Flat<'a> {
    /// False: it is not, or not only, an object with named members.
    fn take(&mut self, document: &'a Document, schema: &'a Value, depth: usize) -> bool {
        let Some(schema) = document.resolved(schema).filter(|_| depth < 8) else { return false };
        let parts = schema["allOf"].as_array();
        let is_object = schema["type"] == "object"
            || schema.get("type").is_none()
                && (schema.get("properties").is_some() || parts.is_some());
        if !is_object || schema.get("oneOf").is_some() || schema.get("anyOf").is_some() {
            return false;
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            // What only the answer has is not asked for.
            if schema["readOnly"] == true {
                continue;
            }
            self.properties.retain(|(it, _)| it != name);
            self.properties.push((name, schema));
        }
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !self.required.contains(&name) {
                self.required.push(name);
            }
        }
        let is_whole = parts.into_iter().flatten().all(|it| self.take(document, it, depth + 1));
        self.required.retain(|it| self.properties.iter().any(|(name, _)| name == it));
        is_whole && !self.properties.is_empty()
    }
}

/// Of an operation all of whose successes are the same JSON object. Else an answer could be another than was announced.
fn output_schema(document: &Document, said: &Value) -> Option<Value> {
    let responses = said["responses"].as_object()?;
    let mut found: Option<&Value> = None;
    for (_, response) in responses.iter().filter(|(status, _)| status.starts_with('2')) {
        let (_, schema) = content_of(document.resolved(response)?)?;
        if found.is_some_and(|it| it != schema) {
            return None;
        }
        found = Some(schema);
    }
    let mut schemas = Schemas::of(document);
    let schema = schemas.standalone(found?);
    let schema = schema.as_object().filter(|it| it.get("type") == Some(&json!("object")))?;
    Some(Value::Object(schemas.with_defs(schema.clone())))
}

/// Somebody else's words, with their paragraphs.
fn words_of(text: &str) -> String {
    text::beginning(&text::sanitize(text), MAX_DESCRIPTION).to_owned()
}

fn description(said: &Value, method: &Method, path: &str) -> String {
    let mut parts = Vec::new();
    if said["deprecated"] == true {
        parts.push("Deprecated.");
    }
    for key in ["summary", "description"] {
        let words = said[key].as_str().map(str::trim).filter(|it| !it.is_empty());
        // Many repeat the one in the other.
        parts.extend(words.filter(|it| !parts.contains(it)));
    }
    if parts.is_empty() {
        return format!("{method} {path}");
    }
    words_of(&parts.join("\n\n"))
}

/// What the methods of HTTP promise; of POST and PATCH nothing is known.
fn annotations(method: &Method) -> Value {
    let mut hints = json!({"openWorldHint": true, "readOnlyHint": *method == Method::GET});
    if [Method::GET, Method::PUT, Method::DELETE].contains(method) {
        hints["idempotentHint"] = true.into();
    }
    if *method == Method::DELETE {
        hints["destructiveHint"] = true.into();
    }
    hints
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Place::Path => "path",
            Place::Query => "query",
            Place::Header => "header",
            Place::Cookie => "cookie",
        }
    }
}

#[cfg(test)]
mod tests;
