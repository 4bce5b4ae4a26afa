use std::collections::BTreeMap;

use serde_json::json;

use super::layers::{Flag, Sources, load};
use super::*;

fn from(file: &str, env: &[(&str, &str)], flags: Vec<Flag>) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs_err::write(&path, file).unwrap();
    let env: BTreeMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(Sources { env: &env, file: Some(path), flags })
}

fn error_of(file: &str, env: &[(&str, &str)]) -> String {
    from(file, env, Vec::new()).unwrap_err().to_string()
}

#[test]
fn nothing_given_is_the_safe_default() {
    let config = from("", &[], Vec::new()).unwrap();
    assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 3000));
    assert!(config.security.enable_auth);
    let (ours, theirs) = (format!("{:?}", config.settings()), format!("{:?}", Settings::default()));
    assert_eq!(ours, theirs, "the defaults of the services are written twice and have to agree");
}

#[test]
fn flags_beat_environment_beats_file_beats_default() {
    let file = "server:\n  host: ::1\n  port: 1\n  log_level: WARN\n";
    let env = [("PORT", "2"), ("LOG_LEVEL", "debug")];
    let flag = Flag { name: "--port", key: "server.port", value: json!(3) };
    let config = from(file, &env, vec![flag]).unwrap();
    assert_eq!(config.server.port, 3);
    assert_eq!(config.server.log_level, LogLevel::Debug);
    assert_eq!(config.server.host, "::1");
    assert_eq!(from(file, &env, Vec::new()).unwrap().server.port, 2);
    assert_eq!(
        from(file, &[("PORT", "2"), ("PROXY_PORT", "4")], Vec::new()).unwrap().server.port,
        4
    );
}

#[test]
fn the_file_of_the_seed_is_understood() {
    let file = r#"
server:
  host: 0.0.0.0
  port: 3000
  mode: proxy
security:
  enable_auth: true
  api_keys:
    - name: default
      key: your-api-key
      permissions: ["read", "write", "execute"]
llm:
  provider: azure
  azure:
    endpoint: https://your-endpoint.azure.com
    api_key: ${AZURE_AI_API_KEY}
    model: gpt-4
execution:
  max_parallel_tasks: 10
  task_timeout: 300  # seconds
  retry_count: 3
"#;
    let config = from(file, &[("AZURE_AI_API_KEY", "k3y")], Vec::new()).unwrap();
    assert_eq!(config.server.mode, Mode::Proxy);
    assert_eq!(config.security.api_keys[0].permissions.len(), 3);
    assert_eq!(config.llm.azure.api_key.as_ref().unwrap().expose(), "k3y");
    assert!(!format!("{config:?}").contains("k3y"), "secrets are not printed");
    let err = error_of(file, &[]);
    assert!(
        err.contains("`llm.azure.api_key` refers to the environment variable `AZURE_AI_API_KEY`"),
        "{err}"
    );
}

#[test]
fn a_mistake_names_where_what_and_what_is_allowed() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case] = &[
        ("server:\n  prot: 1\n", &[], &["config.yaml", "`server.prot`", "unknown field", "`port`"]),
        ("sever: {}\n", &[], &["config.yaml", "`sever`", "`server`"]),
        ("server:\n  port: 70000\n", &[], &["`server.port`", "70000", "from 0 to 65535"]),
        (
            "",
            &[("PORT", "abc")],
            &["environment variable `PORT`", "`server.port`", "from 0 to 65535"],
        ),
        ("", &[("DEBUG", "maybe")], &["environment variable `DEBUG`", "`true` or `false`"]),
        ("server:\n  log_level: loud\n", &[], &["`server.log_level`", "`loud`", "trace"]),
        ("server:\n  mode: both\n", &[], &["`server.mode`", "`both`", "`proxy`"]),
        ("server: 3\n", &[], &["`server`", "expected struct"]),
        ("compute:\n  port_range: 9000-8000\n", &[], &["`compute.port_range`", "8000-9000"]),
        ("compute:\n  stop_grace: -1\n", &[], &["`compute.stop_grace`", "0.001"]),
        ("compute:\n  default_cpu: -1\n", &[], &["`compute.default_cpu`"]),
        ("compute:\n  starts_per_node: 0\n", &[], &["`compute.starts_per_node`", "from 1 to 64"]),
        (
            "compute:\n  quotas:\n    bad name: {instances: 1, cpu: 1, memory: 1}\n",
            &[],
            &["`compute.quotas.bad name`", "user name"],
        ),
        ("security:\n  api_key: short\n", &[], &["`security.api_key`", "12 characters"]),
        (
            "security:\n  api_keys: [{name: a, key: abcdefghijkl, permissions: []}]\n",
            &[],
            &["`security.api_keys[0].permissions`"],
        ),
        ("llm:\n  provider: azure\n", &[], &["`llm.azure.endpoint`", "llm.provider"]),
        ("llm:\n  provider: gemini\n", &[], &["`llm.provider`", "`gemini`", "`anthropic`"]),
        ("llm:\n  max_tokens: 0\n", &[], &["`llm.max_tokens`", "from 1"]),
        ("", &[("MCP_ORCH_LLM_PROVIDER", "openai")], &["`llm.openai.api_key`", "llm.provider"]),
        (
            "llm:\n  provider: openai\n  openai: {base_url: 'http://h/v1'}\n",
            &[],
            &["`llm.openai.model`", "llm.provider"],
        ),
        (
            "llm:\n  provider: anthropic\n  anthropic: {model: m, api_key: 'a b'}\n",
            &[],
            &["`llm.anthropic.api_key`", "no token has"],
        ),
        (
            "llm: {provider: azure, azure: {endpoint: 'https://h/openai/deployments/m?api-version=1', api_key: k, model: m}}\n",
            &[],
            &["`llm.azure.endpoint`", "`?`"],
        ),
        (
            "llm: {provider: bedrock, bedrock: {region: evil.example/, model: m, api_key: k}}\n",
            &[],
            &["`llm.bedrock.region`", "us-east-1"],
        ),
        (
            "llm: {provider: bedrock, bedrock: {region: us-east-1, model: m}}\n",
            &[("AWS_ACCESS_KEY_ID", "AKID")],
            &["`llm.bedrock.secret_access_key`", "llm.provider"],
        ),
        ("ray:\n  url: http://a\n", &[], &["config.yaml", "`ray.url`", "`dashboard_url`"]),
        ("ray:\n  dashboard_url: 10.0.0.1:8265\n", &[], &["`ray.dashboard_url`", "`http://`"]),
        (
            "ray:\n  dashboard_url: http://h/?a=1\n",
            &[],
            &["config.yaml", "`ray.dashboard_url`", "`?`"],
        ),
        (
            "",
            &[("RAY_DASHBOARD_URL", "ray://h:10001")],
            &["variable `RAY_DASHBOARD_URL`", "`https://`"],
        ),
        (
            "ray:\n  dashboard_url: http://u:hunter2@h\n",
            &[],
            &["`ray.dashboard_url`", "user or a password", "`ray.token`"],
        ),
        ("ray:\n  dashboard_url: http://h\n  token: a b\n", &[], &["`ray.token`", "no token has"]),
        ("- a\n", &[], &["config.yaml", "mapping of sections"]),
        ("a: [\n", &[], &["config.yaml", "not valid YAML"]),
    ];
    for (file, env, parts) in cases {
        let err = error_of(file, env);
        for part in *parts {
            // Hints are written without backticks around alternatives.
            assert!(
                err.contains(part) || err.contains(&part.replace('`', "")),
                "{part} is not in: {err}"
            );
        }
    }
}

#[test]
fn a_secret_that_is_refused_is_not_repeated() {
    let err = error_of("security:\n  api_key: hunter2\n", &[]);
    assert!(!err.contains("hunter2"), "{err}");
    let err = error_of("security:\n  jwt_secret: [hunter2]\n", &[]);
    assert!(!err.contains("hunter2"), "{err}");
    let err = error_of("ray:\n  dashboard_url: http://u:hunter2@h\n", &[]);
    assert!(!err.contains("hunter2"), "{err}");
    let file = "ray:\n  dashboard_url: http://h\n";
    let config = from(file, &[("RAY_AUTH_TOKEN", "hunter2")], Vec::new()).unwrap();
    assert_eq!(config.ray.token.as_ref().unwrap().expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn every_section_and_key_is_documented() {
    let mut sections = table::section_names();
    let mut documented: Vec<String> = table::SECTIONS.iter().map(|it| (*it).to_owned()).collect();
    sections.sort();
    documented.sort();
    assert_eq!(sections, documented);
    for line in key_table().lines().skip(2) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(!cells[2].is_empty() && !cells[4].is_empty(), "{line}");
    }
    for name in env::VARIABLES {
        assert!(key_table().contains(&format!("`{}`", name.key)), "{} sets no key", name.name);
    }
}

#[test]
fn the_example_changes_nothing_and_is_right_when_uncommented() {
    let example = example_file();
    let plain = format!("{:?}", from("", &[], Vec::new()).unwrap());
    assert_eq!(format!("{:?}", from(&example, &[], Vec::new()).unwrap()), plain);
    let uncommented: String = example
        .lines()
        .filter(|it| !it.starts_with("# "))
        .map(|it| format!("{}\n", it.strip_prefix('#').unwrap_or(it)))
        .collect();
    assert_eq!(format!("{:?}", from(&uncommented, &[], Vec::new()).unwrap()), plain);
}

#[test]
fn profiles_are_read_and_their_mistakes_named() {
    let of =
        |profile: &str| from(&format!("gateway: {{profiles: {{web: {profile}}}}}"), &[], vec![]);
    let config = of("{servers: [git*], names: dot, tools: {deny: ['*.x']}}").unwrap();
    let profiles = config.profiles();
    let web = profiles.get("web").unwrap();
    assert!(web.shows_tool("github", "y") && !web.shows_tool("github", "x"));
    assert!(!web.own && !web.lazy && !web.shows_server("slack"));
    assert!(of("{}").unwrap().profiles().get("web").unwrap().shows_server("any"));
    for (profile, words) in [
        ("{tools: {allow: [read_file]}}", "`read_file` matches no tool"),
        ("{permissions: []}", "nobody can do anything"),
        ("{transparent: a, lazy: true}", "stands for one server"),
        ("{names: dots}", "gateway.profiles.web.names"),
        ("{server: [a]}", "gateway.profiles.web.server"),
    ] {
        let err = of(profile).unwrap_err().to_string();
        assert!(err.contains(words), "{profile}: {err}");
    }
    let err = from("gateway: {profiles: {'a/b': {}}}", &[], vec![]).unwrap_err().to_string();
    assert!(err.contains("letters, digits"), "{err}");
}

#[test]
fn a_provider_is_complete_by_its_variables_and_shows_none_of_its_secrets() {
    let common = [("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_REGION", "eu-central-1")];
    let secrets = [
        ("AWS_ACCESS_KEY_ID", "hunter2-id"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2-secret"),
        ("AWS_SESSION_TOKEN", "hunter2-session"),
        ("AWS_BEARER_TOKEN_BEDROCK", "hunter2-bearer"),
        ("OPENAI_API_KEY", "hunter2-openai"),
        ("ANTHROPIC_API_KEY", "hunter2-anthropic"),
        ("AZURE_AI_API_KEY", "hunter2-azure"),
    ];
    let more = [
        ("AZURE_AI_ENDPOINT", "https://h.openai.azure.com"),
        ("AZURE_AI_MODEL", "m"),
        ("OPENAI_BASE_URL", "http://h/v1"),
        ("OPENAI_MODEL", "m"),
        ("ANTHROPIC_MODEL", "m"),
        ("BEDROCK_MODEL_ID", "m"),
    ];
    let env = [&common[..], &secrets, &more].concat();
    assert_eq!(from("", &env, Vec::new()).unwrap().llm.provider, None, "a key alone chooses none");
    for provider in ["openai", "anthropic", "azure", "bedrock"] {
        let chosen = [&env[..], &[("MCP_ORCH_LLM_PROVIDER", provider)]].concat();
        let config = from("", &chosen, Vec::new()).unwrap();
        assert_eq!(config.llm.bedrock.region.as_deref(), Some("eu-central-1"));
        assert!(!config.unused().contains(&"llm.provider"));
        assert!(!format!("{config:?}").contains("hunter2"), "{provider}");
        let hidden: Vec<_> = secrets.iter().map(|(_, it)| serde_json::Value::from(*it)).collect();
        for it in &hidden {
            let shown = orch_domain::redact::redacted(it, &[&config.settings().secrets]);
            assert_eq!(shown, "***", "{it}");
        }
    }
}
