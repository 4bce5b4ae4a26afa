//! What the file of servers may say, and how mistakes in it are told.

use super::*;

fn lookup(name: &str) -> Option<String> {
    (name == "TOKEN").then(|| "s3cret".to_owned())
}

fn error_of(text: &str) -> String {
    McpConfig::parse(text, &lookup).unwrap_err().to_string()
}

#[test]
fn both_kinds_are_read_as_clients_write_them() {
    let text = r#"{"mcpServers": {
        "github-server": {"command": "npx", "args": ["-y", "pkg"], "env": {"GITHUB_TOKEN": "${TOKEN}"}, "autoApprove": []},
        "remote": {"type": "http", "url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}, "disabled": true}
    }}"#;
    let config = McpConfig::parse(text, &lookup).unwrap();
    let Reach::Stdio { command, args, env, .. } = &config.servers["github-server"].reach else {
        panic!("a command is a child process")
    };
    assert_eq!((command.as_str(), args.len()), ("npx", 2));
    assert_eq!(env["GITHUB_TOKEN"].expose(), "s3cret");
    let remote = &config.servers["remote"];
    assert!(remote.disabled);
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn mistakes_name_the_key_and_what_is_allowed() {
    assert!(error_of("{}").contains("`mcpServers`: it is missing"));
    assert!(error_of("{").contains("not valid JSON"));
    assert!(
        error_of(r#"{"mcpServers": {"a.b": {}}}"#).contains("`mcpServers.a.b`: a server's name")
    );
    assert!(error_of(r#"{"mcpServers": {"orch": {}}}"#).contains("our own operations"));
    assert!(error_of(r#"{"mcpServers": {"a": {}}}"#).contains("either a `command`"));
    assert!(
        error_of(r#"{"mcpServers": {"a": {"command": "x", "url": "http://y"}}}"#)
            .contains("either a `command`")
    );
    assert!(
        error_of(r#"{"mcpServers": {"a": {"command": "x", "limits": {"rate": {"burst": 5}}}}}"#)
            .contains("`mcpServers.a.limits.rate`: `burst` needs")
    );
    assert!(
        error_of(r#"{"mcpServers": {"a": {"url": "ftp://y"}}}"#).contains("`mcpServers.a.url`")
    );
    assert!(
        error_of(r#"{"mcpServers": {"a": {"command": "x", "comand": "y"}}}"#)
            .contains("unknown field `comand`")
    );
    assert!(
        error_of(r#"{"mcpServers": {"a": {"command": "${NOPE}"}}}"#)
            .contains("`mcpServers.a.command`: the environment variable `NOPE` is not set")
    );
}

#[test]
fn what_guards_a_server_is_checked_by_its_key() {
    let error = |guard: &str| {
        error_of(&format!(r#"{{"mcpServers": {{"a": {{"command": "x", {guard}}}}}}}"#))
    };
    for (guard, said) in [
        (r#""redact": ["a", "("]"#, "`mcpServers.a.redact[1]`: it is no regular expression"),
        (r#""pin": "sometimes""#, "`off`, `warn`, `enforce`"),
        (r#""cache_ttl": 0"#, "`mcpServers.a.cache_ttl`: it is the seconds"),
        (r#""limits": {"memory": "much"}"#, "`mcpServers.a.limits.memory`: it is a number"),
        (r#""limits": {"memory": true}"#, "`mcpServers.a.limits.memory`: it is a number"),
        (r#""limits": {"memory": 5}"#, "`mcpServers.a.limits.memory`: no program"),
        (r#""limits": {"concurrency": 0}"#, "`mcpServers.a.limits.concurrency`: it is a whole"),
        (r#""limits": {"max_children": 0}"#, "`mcpServers.a.limits.max_children`"),
        (r#""limits": {"result_bytes": 5}"#, "`mcpServers.a.limits.result_bytes`: it is 0"),
        (r#""limits": {"memoy": 5}"#, "unknown field `memoy`"),
    ] {
        assert!(error(guard).contains(said), "{guard}: {}", error(guard));
    }
    let text = r#"{"mcpServers": {"a": {"command": "x", "enabled": false, "pin": "enforce", "redact": ["k.y"],
        "cache_ttl": 5, "limits": {"memory": "512MB", "max_children": 2, "concurrency": 3, "result_bytes": "10KB", "rate": {"per_second": 5}}}}}"#;
    let it = &McpConfig::parse(text, &lookup).unwrap().servers["a"];
    assert!(it.disabled);
    assert_eq!(it.guard.pin, Some(PinMode::Enforce));
    assert_eq!(it.guard.cache_ttl, Some(Duration::from_secs(5)));
    assert_eq!(it.guard.limits.memory, Some(512_000_000));
    assert_eq!(it.guard.limits.result_bytes, Some(10_000));
    assert!(it.rate.is_some());
    assert!(!it.guard.redact.is_empty());
}

#[test]
fn a_url_has_a_form_and_a_login() {
    let read = |entry: &str| {
        let text = format!(r#"{{"mcpServers": {{"a": {entry}}}}}"#);
        McpConfig::parse(&text, &lookup).map(|it| it.servers["a"].reach.clone())
    };
    let wire_of = |entry: &str| match read(entry).unwrap() {
        Reach::Http { wire, .. } => wire,
        Reach::Stdio { .. } | Reach::OpenApi { .. } => panic!("it has a URL"),
    };
    assert_eq!(wire_of(r#"{"url": "https://a/sse"}"#), Wire::Either);
    assert_eq!(wire_of(r#"{"type": "sse", "url": "https://a/sse"}"#), Wire::Sse);
    assert_eq!(wire_of(r#"{"type": "streamable-http", "url": "https://a"}"#), Wire::Streamable);
    let text = r#"{"url": "https://a", "auth": {"clientId": "me", "client_secret": "${TOKEN}", "scope": "a b"}}"#;
    let Reach::Http { oauth: Some(oauth), .. } = read(text).unwrap() else { panic!() };
    assert_eq!((oauth.client_id.as_deref(), oauth.scopes.len()), (Some("me"), 2));
    assert!(!format!("{oauth:?}").contains("s3cret"));
    for (entry, said) in [
        (r#"{"type": "sse", "command": "x"}"#, "either a `command`"),
        (r#"{"command": "x", "oauth": {}}"#, "`mcpServers.a.oauth`: only"),
        (
            r#"{"url": "https://a", "oauth": {"client_secret": "x"}}"#,
            "`mcpServers.a.oauth.client_secret`",
        ),
        (r#"{"url": "https://a", "oauth": {"client_credentials": true}}"#, "needs `client_id`"),
        (r#"{"url": "https://a", "oauth": {"issuer": "a"}}"#, "`https://` address"),
        (r#"{"url": "https://a", "oauth": {"redirect_uri": "https://b/c"}}"#, "/oauth/callback"),
        (
            r#"{"url": "https://a", "oauth": {}, "headers": {"authorization": "x"}}"#,
            "leave out one",
        ),
        (r#"{"url": "https://a", "oauth": {"secret": 1}}"#, "unknown field `secret`"),
    ] {
        let err = read(entry).unwrap_err().to_string();
        assert!(err.contains(said), "{entry}: {err}");
    }
}

#[test]
fn expansion_knows_defaults_and_leaves_other_dollars() {
    let it = expand("a ${TOKEN} ${NOPE:-b} $HOME ${open", &lookup).unwrap();
    assert_eq!(it, "a s3cret b $HOME ${open");
    assert_eq!(expand("${NOPE}", &lookup).unwrap_err(), "NOPE");
}
