//! What the stateless era repeats of a request's body in HTTP headers (SEP-2243), so that those between can route it.
//! A gateway checks that they say what the body says, decides by the body alone, and writes them anew.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::{Map, Value};

use crate::catalog::Item;
use crate::frame::Frame;
use crate::members::Members;
use crate::upstream::handshake::VERSION_KEY;

pub const METHOD: &str = "mcp-method";
pub const NAME: &str = "mcp-name";
pub const VERSION: &str = "mcp-protocol-version";
const PARAM: &str = "Mcp-Param-";
/// Of a property in an input schema: the header that repeats its value.
const ANNOTATION: &str = "x-mcp-header";

/// What `Mcp-Name` repeats of a request.
pub fn name_of(method: &str, params: &Members) -> Option<String> {
    let key = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "uri",
        "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
        _ => return None,
    };
    params.text(key)
}

/// Compares only the version, which decides how the rest is understood. One that is said only once is not compared.
pub fn check_version(headers: &HeaderMap, frame: &Frame) -> Result<(), String> {
    let meta = Members::of_params(frame.params.as_ref()).object("_meta");
    let Some(wanted) = meta.and_then(|it| it.text(VERSION_KEY)) else { return Ok(()) };
    match sole(headers, VERSION)? {
        Some(it) if it != wanted => {
            Err(format!("the header `{VERSION}` does not say what the body says"))
        }
        _ => Ok(()),
    }
}

/// Whether a client may use a tool as it is described: headers that repeat arguments have names that a header can have,
/// each once, and repeat what can be written in one way only. The error says which is at fault.
pub fn check_tool(tool: &Item) -> Result<(), String> {
    if !tool.json.get().contains(ANNOTATION) {
        return Ok(());
    }
    let schema = Members::of(&tool.json).and_then(|it| it.get("inputSchema").cloned());
    let schema: Value =
        schema.and_then(|it| serde_json::from_str(it.get()).ok()).unwrap_or_default();
    let mut seen = Vec::new();
    check_annotations(schema.get("properties"), &mut seen)
}

fn check_annotations(properties: Option<&Value>, seen: &mut Vec<String>) -> Result<(), String> {
    for (name, schema) in properties.and_then(Value::as_object).into_iter().flatten() {
        if let Some(annotation) = schema.get(ANNOTATION) {
            let header = annotation.as_str().unwrap_or_default();
            let is_token = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
            if header.is_empty() || !header.bytes().all(is_token) {
                return Err(format!("`{ANNOTATION}` of `{name}` is no name of a header"));
            }
            if !matches!(schema["type"].as_str(), Some("string" | "integer" | "boolean")) {
                return Err(format!("`{ANNOTATION}` of `{name}`: no header can repeat its type"));
            }
            let header = header.to_ascii_lowercase();
            if seen.contains(&header) {
                return Err(format!(
                    "`{ANNOTATION}` of `{name}`: another argument has that header"
                ));
            }
            seen.push(header);
        }
        check_annotations(schema.get("properties"), seen)?;
    }
    Ok(())
}

/// Compares the headers of a request with its body. `tool` is the one it calls, where it calls one that is known.
/// The error says which header is at fault.
pub fn check(headers: &HeaderMap, frame: &Frame, tool: Option<&Item>) -> Result<(), String> {
    let method = frame.method.as_deref().unwrap_or_default();
    let params = Members::of_params(frame.params.as_ref());
    let version = params.object("_meta").and_then(|it| it.text(VERSION_KEY));
    for (header, wanted) in
        [(METHOD, Some(method.to_owned())), (VERSION, version), (NAME, name_of(method, &params))]
    {
        let Some(wanted) = wanted else { continue };
        match sole(headers, header)? {
            Some(it) if it == wanted => {}
            Some(_) => {
                return Err(format!("the header `{header}` does not say what the body says"));
            }
            None => return Err(format!("the header `{header}` is missing")),
        }
    }
    let Some(tool) = tool else { return Ok(()) };
    let arguments = arguments(&params);
    for (path, header) in annotations(tool) {
        let name = format!("{PARAM}{header}");
        let wanted = at(&arguments, &path).and_then(text_of);
        match (sole(headers, &name)?, wanted) {
            (None, None) => {}
            (Some(it), Some(wanted)) if it == wanted => {}
            (Some(_), Some(_)) => {
                return Err(format!("the header `{name}` does not say what the body says"));
            }
            (Some(_), None) => {
                return Err(format!("the header `{name}` repeats an argument that is not there"));
            }
            (None, Some(_)) => return Err(format!("the header `{name}` is missing")),
        }
    }
    Ok(())
}

/// The headers that repeat arguments of a call, for the server that asks for them.
pub fn of_call(tool: &Item, params: &Members) -> Vec<(String, String)> {
    let arguments = arguments(params);
    annotations(tool)
        .into_iter()
        .filter_map(|(path, header)| {
            Some((format!("{PARAM}{header}"), text_of(at(&arguments, &path)?)?))
        })
        .collect()
}

fn arguments(params: &Members) -> Value {
    params.get("arguments").and_then(|it| serde_json::from_str(it.get()).ok()).unwrap_or_default()
}

fn at<'a>(arguments: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(arguments, |value, key| value.get(key))
}

/// Values that a header can repeat.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(it) => Some(it.clone()),
        Value::Bool(it) => Some(it.to_string()),
        Value::Number(it) => Some(it.to_string()),
        _ => None,
    }
}

/// The annotated properties of a tool's input schema, by their paths; only through `properties`, as the protocol says.
fn annotations(tool: &Item) -> Vec<(Vec<String>, String)> {
    if !tool.json.get().contains(ANNOTATION) {
        return Vec::new();
    }
    let schema = Members::of(&tool.json).and_then(|it| it.get("inputSchema").cloned());
    let schema: Map<String, Value> =
        schema.and_then(|it| serde_json::from_str(it.get()).ok()).unwrap_or_default();
    let mut found = Vec::new();
    collect(schema.get("properties"), &mut Vec::new(), &mut found);
    found
}

fn collect(
    properties: Option<&Value>,
    path: &mut Vec<String>,
    found: &mut Vec<(Vec<String>, String)>,
) {
    for (name, schema) in properties.and_then(Value::as_object).into_iter().flatten() {
        path.push(name.clone());
        if let Some(header) = schema[ANNOTATION].as_str().filter(|it| !it.is_empty()) {
            found.push((path.clone(), header.to_owned()));
        }
        collect(schema.get("properties"), path, found);
        path.pop();
    }
}

/// The one value of a header. Two would be read differently by different readers.
fn sole(headers: &HeaderMap, name: &str) -> Result<Option<String>, String> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(format!("the header `{name}` is there twice"));
    }
    let text = value.to_str().map_err(|_| format!("the header `{name}` is no plain text"))?;
    decoded(text).map(Some).ok_or_else(|| format!("the header `{name}` is no base64 of text"))
}

/// What is not plain ASCII is sent in base64 between marks.
fn decoded(text: &str) -> Option<String> {
    match text.strip_prefix("=?base64?").and_then(|it| it.strip_suffix("?=")) {
        Some(it) => String::from_utf8(STANDARD.decode(it).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn tool() -> Item {
        let json = r#"{"name":"t","inputSchema":{"type":"object","properties":{
            "region":{"type":"string","x-mcp-header":"Region"},
            "deep":{"type":"object","properties":{"n":{"type":"integer","x-mcp-header":"N"}}}}}}"#;
        Item { name: "t".into(), origin: "t".into(), json: serde_json::from_str(json).unwrap() }
    }

    fn call(arguments: &str) -> Frame {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        Frame::parse(text.as_bytes()).unwrap()
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    #[test]
    fn headers_have_to_say_what_the_body_says() {
        let frame = call(r#"{"region":"Zürich","deep":{"n":7}}"#);
        let base = [(METHOD, "tools/call"), (NAME, "t")];
        let with = |more: &[(&str, &str)]| {
            check(&headers(&[&base[..], more].concat()), &frame, Some(&tool()))
        };
        let region = ("mcp-param-region", "=?base64?WsO8cmljaA==?=");
        with(&[region, ("mcp-param-n", "7")]).unwrap();
        assert!(with(&[region, ("mcp-param-n", "8")]).unwrap_err().contains("Mcp-Param-N"));
        assert!(with(&[region]).unwrap_err().contains("missing"));
        assert!(check(&headers(&[(METHOD, "tools/call")]), &frame, None).is_err());
        assert!(check(&headers(&[(METHOD, "tools/list"), (NAME, "t")]), &frame, None).is_err());
        let absent = call("{}");
        let said = headers(&[&base[..], &[region]].concat());
        assert!(check(&said, &absent, Some(&tool())).unwrap_err().contains("not there"));
    }

    #[test]
    fn a_tool_whose_headers_cannot_be_is_not_used() {
        let described = |properties: &str| {
            let json = format!(r#"{{"name":"t","inputSchema":{{"properties":{properties}}}}}"#);
            check_tool(&Item {
                name: "t".into(),
                origin: "t".into(),
                json: serde_json::from_str(&json).unwrap(),
            })
        };
        check_tool(&tool()).unwrap();
        for bad in [
            r#"{"a":{"type":"string","x-mcp-header":""}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"My Region"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"Région"}}"#,
            r#"{"a":{"type":"object","x-mcp-header":"A"}}"#,
            r#"{"a":{"type":"number","x-mcp-header":"A"}}"#,
            r#"{"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"string","x-mcp-header":"a"}}"#,
        ] {
            described(bad).unwrap_err();
        }
    }

    #[test]
    fn arguments_become_headers_where_the_schema_says_so() {
        let params =
            Members::of_params(call(r#"{"region":"eu","deep":{"n":7},"x":1}"#).params.as_ref());
        let expected = [("Mcp-Param-Region", "eu"), ("Mcp-Param-N", "7")];
        let mut made = of_call(&tool(), &params);
        made.sort_by(|a, b| b.cmp(a));
        assert_eq!(made, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
