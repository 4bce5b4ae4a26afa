//! What it lists. Written as JSON, because the members are what tests compare.

use serde_json::{Value, json};

/// The smallest PNG and the smallest WAV there are.
pub(crate) const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
pub(crate) const WAV: &str = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA=";

fn tool(name: &str, description: &str, schema: Value) -> Value {
    json!({"name": name, "description": description, "inputSchema": schema})
}

fn nothing() -> Value {
    json!({"type": "object", "properties": {}})
}

fn with(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

/// Tools without arguments, and what they do.
const PLAIN: [(&str, &str); 28] = [
    ("test_simple_text", "Says a text"),
    ("test_image_content", "Shows an image"),
    ("test_audio_content", "Plays a sound"),
    ("test_embedded_resource", "Embeds a resource"),
    ("test_multiple_content_types", "Text, an image and a resource"),
    ("test_tool_with_logging", "Logs while it works"),
    ("test_error_handling", "Always fails"),
    ("test_tool_with_progress", "Tells of its progress"),
    ("test_elicitation_sep1034_defaults", "Asks with a form that has defaults"),
    ("test_elicitation_sep1330_enums", "Asks with a form of all kinds of choices"),
    ("test_reconnection", "Answers"),
    ("test_missing_capability", "Needs a client that samples"),
    ("test_streaming_elicitation", "Tells of its progress and then asks"),
    ("test_logging_tool", "Logs at every level"),
    ("test_trigger_tool_change", "Adds a tool, or takes it away"),
    ("test_trigger_prompt_change", "Adds a prompt, or takes it away"),
    ("test_input_required_result_elicitation", "Asks for a name"),
    ("test_input_required_result_sampling", "Asks the client's model"),
    ("test_input_required_result_list_roots", "Asks for the client's roots"),
    ("test_input_required_result_request_state", "Asks, with a state"),
    ("test_input_required_result_multiple_inputs", "Asks for three things at once"),
    ("test_input_required_result_multi_round", "Asks twice"),
    ("test_input_required_result_tampered_state", "Asks, and looks at the state closely"),
    ("test_input_required_result_capabilities", "Asks only for what the client can answer"),
    ("multi_input", "A task that asks twice at once"),
    ("test_tool_with_task", "Asks, and is a task then"),
    ("hold", "Ends when it is cancelled"),
    ("caller", "Says who calls, as it was told"),
];

pub(crate) fn tools(is_grown: bool) -> Vec<Value> {
    let text = json!({"type": "string"});
    let mut tools: Vec<Value> =
        PLAIN.iter().map(|(name, description)| tool(name, description, nothing())).collect();
    tools.extend([
        tool(
            "test_sampling",
            "Asks the client's model",
            with(json!({"prompt": text}), &["prompt"]),
        ),
        tool("test_elicitation", "Asks the user", with(json!({"message": text}), &["message"])),
        tool("json_schema_2020_12_tool", "Has all of a schema's keywords", dialect()),
        tool(
            "test_x_mcp_header",
            "Takes an argument from a header too",
            with(json!({"region": {"type": "string", "x-mcp-header": "Region"}}), &["region"]),
        ),
        tool("greet", "Greets", with(json!({"name": text}), &["name"])),
        tool(
            "slow_compute",
            "Takes its time",
            with(json!({"seconds": {"type": "integer"}, "label": text}), &["seconds"]),
        ),
        tool("failing_job", "A task that fails", nothing()),
        tool("protocol_error_job", "A task that breaks down", nothing()),
        tool("confirm_delete", "Asks before it deletes", with(json!({"filename": text}), &[])),
        tool(
            "burst",
            "Tells of its progress quickly",
            with(json!({"n": {"type": "integer"}}), &["n"]),
        ),
        tool("touch", "Says that a resource changed", with(json!({"uri": text}), &["uri"])),
        rich(),
    ]);
    if is_grown {
        tools.push(tool("test_dynamic_tool", "Is there now and then", nothing()));
    }
    tools
}

/// All members that a tool may have, and numbers that are easily spoilt.
fn rich() -> Value {
    json!({
        "name": "rich", "title": "Everything a tool may say of itself", "description": "Structured",
        "inputSchema": {
            "type": "object", "x-vendor": {"a": 0.7},
            "properties": {"temperature": {"type": "number", "minimum": 0.1, "default": 0.7}},
        },
        "outputSchema": {"type": "object", "properties": {"temperature": {"type": "number"}}},
        "annotations": {"title": "Rich", "readOnlyHint": true, "openWorldHint": false},
        "icons": [{"src": "data:image/png;base64,AA==", "mimeType": "image/png", "sizes": ["48x48"]}],
        "_meta": {"vendor.example/x": {"deep": [1, 0.7, null]}},
    })
}

fn dialect() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {
            "$anchor": "addressDef", "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }},
        "properties": {
            "name": {"type": "string"}, "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"}, "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {
            "properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"],
        },
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    })
}

pub(crate) fn prompts(is_grown: bool) -> Vec<Value> {
    let argument = |name: &str| json!({"name": name, "description": name, "required": true});
    let mut prompts = vec![
        json!({"name": "test_simple_prompt", "description": "Without arguments"}),
        json!({
            "name": "test_prompt_with_arguments", "description": "With two",
            "arguments": [argument("arg1"), argument("arg2")],
        }),
        json!({
            "name": "test_prompt_with_embedded_resource", "description": "With a resource",
            "arguments": [argument("resourceUri")],
        }),
        json!({"name": "test_prompt_with_image", "description": "With an image"}),
        json!({"name": "test_input_required_result_prompt", "description": "Asks first"}),
    ];
    if is_grown {
        prompts.push(json!({"name": "test_dynamic_prompt", "description": "Now and then"}));
    }
    prompts
}

pub(crate) fn resources() -> Vec<Value> {
    let resource = |uri: &str, name: &str, kind: &str| json!({"uri": uri, "name": name, "description": name, "mimeType": kind});
    vec![
        resource("test://static-text", "Static text", "text/plain"),
        resource("test://static-binary", "Static binary", "image/png"),
        resource("test://watched-resource", "Watched", "text/plain"),
        resource("test://asks-first", "Asks first", "text/plain"),
    ]
}

/// On two pages, so that whoever does not follow the cursor loses one.
pub(crate) fn templates() -> [Value; 2] {
    let template = |uri: &str, name: &str| json!({"uriTemplate": uri, "name": name, "description": name, "mimeType": "application/json"});
    [
        template("test://template/{id}/data", "Data by id"),
        template("test://other/{kind}/{id}", "By kind and id"),
    ]
}

/// What a prompt says.
pub(crate) fn prompt(name: &str, argument: impl Fn(&str) -> String) -> Option<Value> {
    let user = |content: Value| json!({"role": "user", "content": content});
    let said = |text: &str| user(json!({"type": "text", "text": text}));
    let messages = match name {
        "test_simple_prompt" => json!([said("This is a simple prompt for testing.")]),
        "test_prompt_with_arguments" => json!([said(&format!(
            "Prompt with arguments: arg1='{}', arg2='{}'",
            argument("arg1"),
            argument("arg2")
        ))]),
        "test_prompt_with_embedded_resource" => {
            let resource = json!({
                "uri": argument("resourceUri"), "mimeType": "text/plain",
                "text": "Embedded resource content for testing.",
            });
            json!([
                user(json!({"type": "resource", "resource": resource})),
                said("Please process the embedded resource above.")
            ])
        }
        "test_prompt_with_image" => json!([
            user(json!({"type": "image", "data": PNG, "mimeType": "image/png"})),
            said("Please analyze the image above.")
        ]),
        "test_dynamic_prompt" => json!([said("Here now.")]),
        _ => return None,
    };
    Some(json!({"description": name, "messages": messages}))
}

/// What is in a resource.
pub(crate) fn contents(uri: &str) -> Option<Value> {
    let text = |text: String, kind: &str| json!([{"uri": uri, "mimeType": kind, "text": text}]);
    Some(match uri {
        "test://static-text" => {
            text("This is the content of the static text resource.".to_owned(), "text/plain")
        }
        "test://static-binary" => json!([{"uri": uri, "mimeType": "image/png", "blob": PNG}]),
        "test://watched-resource" => text("Watched resource content".to_owned(), "text/plain"),
        _ => {
            let id = uri.strip_prefix("test://template/")?.strip_suffix("/data")?;
            let data =
                json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            text(data.to_string(), "application/json")
        }
    })
}
