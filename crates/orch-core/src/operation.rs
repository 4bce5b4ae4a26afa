//! What an operation is. Written once; an operation adds one file, one text and one line in the catalogue.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use orch_domain::Error;
use orch_domain::caller::Permission;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{Cx, Orch, gate};

/// One capability of the product. The implementing type is its request.
pub trait Operation: DeserializeOwned + JsonSchema + Send + 'static {
    const SPEC: Spec;
    type Output: Serialize + JsonSchema + Summary + Send + Sync + 'static;

    fn run(
        self,
        orch: &Arc<Orch>,
        cx: &Cx,
    ) -> impl Future<Output = Result<Self::Output, Error>> + Send;
}

/// An answer in a few lines that a person can read; the full answer goes along as structured data.
pub trait Summary {
    fn summary(&self) -> String;
}

/// What every face says about an operation.
pub struct Spec {
    pub name: &'static str,
    /// `tools/<name>.md`, word for word. Its first line is the help of the command and the summary in OpenAPI.
    pub text: &'static str,
    /// How REST reaches it; the first is the one that documentation shows.
    pub routes: &'static [Route],
    /// None: everybody, also without a login.
    pub needs: Option<Permission>,
    pub effect: Effect,
    pub group: Group,
}

impl Spec {
    pub fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub method: Method,
    /// With `{parameter}` segments, which are parameters of the request type.
    pub path: &'static str,
    /// Arguments that this route fixes, such as `("run", "false")`.
    pub preset: &'static [(&'static str, &'static str)],
    /// The parameter that is the whole body. None: the body has the parameters as its members.
    pub body: Option<&'static str>,
    /// Its body may be as large as the largest plan is.
    pub takes_large_body: bool,
}

impl Route {
    pub const fn get(path: &'static str) -> Route {
        Route { method: Method::Get, path, preset: &[], body: None, takes_large_body: false }
    }
    pub const fn post(path: &'static str) -> Route {
        Route { method: Method::Post, path, preset: &[], body: None, takes_large_body: false }
    }
    pub const fn put(path: &'static str) -> Route {
        Route { method: Method::Put, path, preset: &[], body: None, takes_large_body: false }
    }
    pub const fn delete(path: &'static str) -> Route {
        Route { method: Method::Delete, path, preset: &[], body: None, takes_large_body: false }
    }
    pub const fn with(self, preset: &'static [(&'static str, &'static str)]) -> Route {
        Route { preset, ..self }
    }
    pub const fn taking_body_as(self, parameter: &'static str) -> Route {
        Route { body: Some(parameter), ..self }
    }
    pub const fn taking_large_bodies(self) -> Route {
        Route { takes_large_body: true, ..self }
    }
}

/// What an operation does to the world. From it come MCP's hints, REST's success status and whether audit records it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Reads,
    Creates,
    /// Changes something; doing it twice is doing it once.
    Changes,
    /// Changes something anew each time, as a restart does.
    Repeats,
    /// Runs something whose effect we cannot know.
    Executes,
    Destroys,
}

impl Effect {
    pub fn is_read_only(self) -> bool {
        self == Effect::Reads
    }

    pub fn is_destructive(self) -> bool {
        matches!(self, Effect::Destroys | Effect::Executes)
    }

    /// `launch_instance` is idempotent only with a client token, so `Creates` does not promise it.
    pub fn is_idempotent(self) -> bool {
        matches!(self, Effect::Reads | Effect::Changes | Effect::Destroys)
    }
}

/// Chapters of the documentation, in reading order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    Instances,
    Nodes,
    Cluster,
    Ray,
    Tools,
    Batches,
    Identity,
}

impl Group {
    pub const ALL: [Group; 7] = [
        Group::Instances,
        Group::Nodes,
        Group::Cluster,
        Group::Ray,
        Group::Tools,
        Group::Batches,
        Group::Identity,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Group::Instances => "instances",
            Group::Nodes => "nodes",
            Group::Cluster => "cluster",
            Group::Ray => "ray",
            Group::Tools => "tools",
            Group::Batches => "batches",
            Group::Identity => "identity",
        }
    }
}

/// Takes the text from the file of the same name, so that a missing file does not compile.
macro_rules! spec {
    ($name:literal, $group:ident, $effect:ident, $needs:expr, [$($route:expr),+ $(,)?]) => {
        $crate::operation::Spec {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/", $name, ".md")),
            routes: &[$($route),+],
            needs: $needs,
            effect: $crate::operation::Effect::$effect,
            group: $crate::operation::Group::$group,
        }
    };
}
pub(crate) use spec;

/// What a face gets back: the structured answer, and on demand the few lines for a person.
#[derive(Clone)]
pub struct Answer {
    pub value: Value,
    output: Arc<dyn Summary + Send + Sync>,
}

impl Answer {
    /// Made when asked for: most faces do not show it.
    pub fn text(&self) -> String {
        self.output.summary()
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Answer").field(&self.value).finish()
    }
}

type Call = fn(Arc<Orch>, Cx, Value) -> BoxFuture<'static, Result<Answer, Error>>;

/// An operation with its types erased, so that a face is a loop instead of forty handlers.
pub struct Op {
    pub spec: Spec,
    /// JSON Schema 2020-12 of the request; its root is an object.
    pub input: Map<String, Value>,
    pub output: Map<String, Value>,
    pub call: Call,
}

impl Op {
    pub fn of<O: Operation>() -> Op {
        let call: Call = |orch, cx, arguments| {
            async move {
                gate::admit(&orch, &O::SPEC, &cx)?;
                let cx = match O::SPEC.effect {
                    Effect::Reads => cx,
                    _ => cx.with_arguments(orch.redacted(&arguments)),
                };
                let req = decode::<O>(arguments)
                    .inspect_err(|err| gate::refuse(&orch, &O::SPEC, &cx, err))?;
                let out = gate::call::<O>(&orch, &cx, req).await?;
                let value = serde_json::to_value(&out).map_err(Error::internal)?;
                Ok(Answer { value, output: Arc::new(out) })
            }
            .boxed()
        };
        Op {
            spec: O::SPEC,
            input: schema_of::<O>(true),
            output: schema_of::<O::Output>(false),
            call,
        }
    }
}

fn schema_of<T: JsonSchema>(is_input: bool) -> Map<String, Value> {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.contract = if is_input {
        schemars::generate::Contract::Deserialize
    } else {
        schemars::generate::Contract::Serialize
    };
    let mut schema: Value = settings.into_generator().into_root_schema_for::<T>().into();
    plain(&mut schema);
    let Value::Object(mut schema) = schema else {
        unreachable!("the schema of a struct is an object")
    };
    schema.remove("title");
    schema.remove("description");
    schema.entry("type").or_insert_with(|| "object".into());
    if is_input {
        schema.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    }
    schema
}

/// Drops Rust's names of number formats, which some validators refuse as unknown.
fn plain(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("format").is_some_and(|it| it != "date-time") {
                map.remove("format");
            }
            map.values_mut().for_each(plain);
        }
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

/// Reads the arguments; an error names the parameter and what is allowed, and what else is wrong at first sight.
fn decode<O: Operation>(arguments: Value) -> Result<O, Error> {
    let arguments = if arguments.is_null() { Value::Object(Map::new()) } else { arguments };
    serde_path_to_error::deserialize(&arguments).map_err(|err: serde_path_to_error::Error<_>| {
        let path = err.path().to_string();
        let said = err.into_inner().to_string();
        // A missing or unknown field is reported at its parent; the message names it in backticks first.
        let named = said
            .strip_prefix("missing field `")
            .or_else(|| said.strip_prefix("unknown field `"))
            .and_then(|it| it.split_once('`'));
        let parameter = match (named, path.as_str()) {
            (Some((field, _)), "." | "") => field.to_owned(),
            (Some((field, _)), path) if path != field && !path.ends_with(&format!(".{field}")) => {
                format!("{path}.{field}")
            }
            (_, ".") => String::new(),
            (_, path) => path.to_owned(),
        };
        let schema = schema_of::<O>(true);
        let mut message = orch_domain::text::excerpt(&in_plain_words(&said), 600);
        if said.starts_with("missing field") {
            message.push_str(&purpose(&schema, &parameter));
        }
        for (other, why) in also_wrong(&schema, &arguments, &said) {
            if other != parameter {
                message.push_str(&format!("; `{}`: {why}", orch_domain::text::excerpt(&other, 60)));
            }
        }
        Error::invalid(parameter, message)
    })
}

/// Parameters that are required and not there, or there and unknown: serde stops at the first.
fn also_wrong(
    schema: &Map<String, Value>,
    arguments: &Value,
    said: &str,
) -> Vec<(String, &'static str)> {
    const MAX_SHOWN: usize = 10;
    let Value::Object(arguments) = arguments else { return Vec::new() };
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let missing = required
        .filter_map(Value::as_str)
        .filter(|it| !arguments.contains_key(*it))
        .map(|it| (it.to_owned(), "it is required"));
    // The message knows the other names that a parameter may have; a schema does not.
    let known = said.split_once(", expected ").map(|it| it.1);
    let unknown = arguments.keys().filter(|it| {
        said.starts_with("unknown field")
            && known.is_some_and(|known| !known.contains(&format!("`{it}`")))
    });
    let unknown = unknown.map(|it| (it.clone(), "there is no such parameter"));
    missing.chain(unknown).take(MAX_SHOWN).collect()
}

/// The first sentence about a parameter, for who did not know that it is needed.
fn purpose(schema: &Map<String, Value>, parameter: &str) -> String {
    let text = schema
        .get("properties")
        .and_then(|it| it.get(parameter))
        .and_then(|it| it.get("description"));
    let Some(text) = text.and_then(Value::as_str) else { return String::new() };
    let sentence = text.split_once(". ").map_or(text, |it| it.0);
    format!(": {}", sentence.trim_end_matches('.').replace('\n', " "))
}

/// What a person who knows JSON and not Rust calls the types.
fn in_plain_words(message: &str) -> String {
    if message.starts_with("missing field `") {
        return "it is required".to_owned();
    }
    if let Some(unknown) = message.strip_prefix("unknown field `") {
        let allowed = unknown.split_once(", expected ").map_or("none", |it| it.1);
        let allowed = allowed.trim_start_matches("one of ");
        return format!("there is no such parameter; allowed: {allowed}");
    }
    let Some((before, expected)) = message.rsplit_once(", expected ") else {
        return message.to_owned();
    };
    let plain = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" => r#"an array such as ["a", "b"]"#,
        "a map" => "an object",
        "unit struct" => "nothing",
        it if it.starts_with("struct ") => "an object",
        _ => return message.to_owned(),
    };
    format!("{before}, expected {plain}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::ops::LaunchInstance;

    fn refusal(arguments: Value) -> (String, String) {
        match decode::<LaunchInstance>(arguments) {
            Err(Error::InvalidParameter { parameter, message }) => (parameter, message),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    #[test]
    fn a_refusal_names_the_parameter_and_what_is_allowed() {
        for (arguments, parameter, words) in [
            (json!({}), "image", "it is required: Image to run, such as `nginx:alpine`"),
            (
                json!({"image": "a", "Privileged": true}),
                "Privileged",
                "no such parameter; allowed: `name`, `image`",
            ),
            (json!({"image": "a", "Mounts": ["/"]}), "Mounts", "no such parameter"),
            (json!({"image": "my image"}), "image", "image reference such as `nginx:alpine`"),
            (json!({"image": "a", "name": "a\u{1b}[31m"}), "name", "1 to 63 letters"),
            (json!({"image": "a", "cpu": -1}), "cpu", "from 0 to 4096"),
            (json!({"image": "a", "cpu": "2"}), "cpu", "expected a number"),
            (json!({"image": "a", "count": -1}), "count", "expected a whole number from 0"),
            (json!({"image": "a", "command": "sh"}), "command", "expected an array"),
            (json!({"image": "a", "memory": 1e300}), "memory", "from 0 to 65536"),
            (json!({"image": "a", "ports": [80, 0]}), "ports[1]", "from 1 to 65535"),
            (
                json!({"image": "a", "ports": [{"container_port": 80, "host_ip": "0.0.0.0"}]}),
                "ports[0].host_ip",
                "no such parameter",
            ),
            (
                json!({"image": "a", "strategy": "random"}),
                "strategy",
                "one of `spread`, `binpack`, `ray-aware`",
            ),
            (json!({"image": "a", "client_token": "a b"}), "client_token", "1 to 64"),
        ] {
            let (named, message) = refusal(arguments.clone());
            assert_eq!(named, parameter, "{arguments}: {message}");
            assert!(message.contains(words), "{arguments}: {message}");
        }
    }

    #[test]
    fn several_mistakes_are_told_together() {
        let (named, message) = refusal(json!({"imge": "a", "prots": [80]}));
        assert_eq!(named, "imge");
        assert!(message.contains("`prots`: there is no such parameter"), "{message}");
        assert!(message.contains("`image`: it is required"), "{message}");
        assert!(!message.contains("`imge`:"), "said once: {message}");
    }

    #[test]
    fn ten_thousand_labels_are_refused_in_one_short_sentence() {
        let labels: Map<String, Value> =
            (0..10_000).map(|n| (format!("k{n}"), "v".into())).collect();
        let (named, message) = refusal(json!({"image": "a", "labels": labels}));
        assert_eq!(named, "labels");
        assert!(message.contains("at most 64") && message.len() < 400, "{message}");
    }

    #[test]
    fn schemas_are_objects_without_rust_number_formats() {
        let op = Op::of::<LaunchInstance>();
        for schema in [&op.input, &op.output] {
            assert_eq!(schema["type"], "object");
            let text = serde_json::to_string(schema).unwrap();
            assert!(!text.contains("uint") && !text.contains("\"double\""), "{text}");
        }
        assert_eq!(op.input["additionalProperties"], false);
        assert_eq!(op.input["required"], json!(["image"]));
    }
}
