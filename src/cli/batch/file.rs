//! A plan as a person wrote it: JSON or YAML, from a file or stdin.

use std::io::Read;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What was read, and of what text.
pub(super) struct Written {
    /// As `batch_execute` takes it.
    pub(super) body: Map<String, Value>,
    name: String,
    text: String,
}

/// Reads `-` from stdin.
pub(super) fn read(name: &str) -> anyhow::Result<Written> {
    let text = match name {
        "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("stdin cannot be read")?;
            text
        }
        path => fs_err::read_to_string(path)?,
    };
    let name = if name == "-" { "stdin" } else { name }.to_owned();
    let body = parse(&text).with_context(|| format!("`{name}` is no plan"))?;
    Ok(Written { body, name, text })
}

fn parse(text: &str) -> anyhow::Result<Map<String, Value>> {
    // What begins as JSON does is meant as JSON, and its mistakes are told as such.
    let value: Value = match text.trim_start().starts_with(['{', '[']) {
        true => serde_json::from_str(text)?,
        false => serde_saphyr::from_str(text)?,
    };
    match value {
        Value::Object(map) if map.contains_key("steps") => {
            Ok(Map::from_iter([("plan".to_owned(), Value::Object(map))]))
        }
        Value::Object(map)
            if ["plan", "calls", "request"].iter().any(|it| map.contains_key(*it)) =>
        {
            Ok(map)
        }
        Value::Array(calls) => Ok(Map::from_iter([("calls".to_owned(), calls.into())])),
        _ => bail!(
            "it has none of `steps`, `plan`, `calls` and `request`\n\
             hint: a plan is such as {{\"steps\": [{{\"id\": \"nodes\", \"tool\": \"list_nodes\"}}]}}"
        ),
    }
}

/// Only the places of steps are of interest.
#[derive(Deserialize)]
struct Places {
    steps: Option<Vec<serde_saphyr::Spanned<serde::de::IgnoredAny>>>,
    plan: Option<Box<Places>>,
}

impl Written {
    /// `problems` of a refusal, one line each, with the line that their step begins in.
    pub(super) fn problems(&self, problems: &[Value]) -> Vec<String> {
        let lines = self.lines_of_steps();
        let told = |it: &Value| {
            let place = it["place"].as_str().unwrap_or_default();
            let step = place.strip_prefix("/steps/").and_then(|it| it.split('/').next());
            let line = step.and_then(|it| lines.get(it.parse::<usize>().ok()?));
            let at = line.map_or_else(String::new, |it| format!(":{it}"));
            let step = it["step"].as_str().map_or_else(String::new, |it| format!("`{it}`: "));
            let message = it["message"].as_str().unwrap_or_default();
            format!("{}{at}: {place}: {step}{message}", self.name)
        };
        problems
            .iter()
            .map(|it| orch_domain::text::sanitize(&told(it)).replace('\n', " "))
            .collect()
    }

    /// None are known where the text cannot be read so.
    fn lines_of_steps(&self) -> Vec<u64> {
        let Ok(places) = serde_saphyr::from_str::<Places>(&self.text) else { return Vec::new() };
        let steps = places.steps.or_else(|| places.plan.and_then(|it| it.steps));
        steps.into_iter().flatten().map(|it| it.referenced.line()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(text: &str) -> Written {
        Written { body: parse(text).unwrap(), name: "plan".to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_plan_a_request_and_bare_calls_are_told_apart() {
        let plan = json!({"steps": [{"id": "a", "tool": "whoami"}]});
        assert_eq!(written(&plan.to_string()).body["plan"], plan);
        assert_eq!(written("steps:\n  - id: a\n    tool: whoami\n").body["plan"], plan);
        let whole = json!({"plan": plan, "max_parallel_tasks": 2});
        assert_eq!(Value::Object(written(&whole.to_string()).body), whole);
        let calls = written("- tool: whoami\n- {tool: list_nodes}\n").body;
        assert_eq!(calls["calls"][1]["tool"], "list_nodes");
        for bad in ["", "{", "a: [", "{\"stps\": []}", "just words", "7"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_problem_says_in_which_line_its_step_begins() {
        let problems =
            [json!({"place": "/steps/1/tool", "step": "b", "message": "there is no tool `x`"})];
        let yaml = "steps:\n  - id: a\n    tool: whoami\n  - id: b\n    tool: x\n";
        let said = "plan:4: /steps/1/tool: `b`: there is no tool `x`";
        assert_eq!(written(yaml).problems(&problems), [said]);
        let json = "{\"plan\": {\n \"steps\": [\n  {\"id\": \"a\", \"tool\": \"whoami\"},\n  {\"id\": \"b\", \"tool\": \"x\"}\n]}}";
        assert_eq!(written(json).problems(&problems), [said]);
        let whole = [
            json!({"place": "/steps", "message": "none"}),
            json!({"place": "/steps/9/tool", "message": "far"}),
        ];
        assert_eq!(
            written(yaml).problems(&whole),
            ["plan: /steps: none", "plan: /steps/9/tool: far"]
        );
    }
}
