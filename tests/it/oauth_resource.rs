//! `/mcp` as a protected resource of other issuers: whom it lets in, what it tells the others, and that no token goes on.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::harness::guarded::Guarded;
use crate::harness::http;
use crate::harness::key_issuer::{Authority, Key};
use crate::harness::mcp::{self, Era};
use crate::harness::program::Home;
use crate::harness::witness::Witness;

fn config(authority: &Authority, more: &str) -> String {
    format!("security:\n  oauth:\n    issuers: [\"{}\"]\n{more}", authority.url())
}

/// Status and headers of a request at `/mcp` with this token.
async fn knock(site: &Guarded, token: &str) -> (u16, String) {
    let message = mcp::request(Era::Modern, json!(1), "tools/list", json!({}));
    let response = mcp::post(&site.site, token, &message).send().await.unwrap();
    let challenge = response.headers().get("www-authenticate");
    let challenge = challenge.map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
    (response.status().as_u16(), challenge)
}

#[tokio::test]
async fn who_has_no_token_is_told_where_to_get_one() {
    let authority = Authority::start(vec![Key::new("a", Algorithm::ES256)]).await;
    let site = Guarded::start(json!({}), &config(&authority, "")).await;
    let base = site.server.url.clone();
    let bare = http().post(&site.site.url).json(&json!({})).send().await.unwrap();
    assert_eq!(bare.status(), 401);
    let challenge = bare.headers()["www-authenticate"].to_str().unwrap();
    let described = format!("{base}/.well-known/oauth-protected-resource/mcp");
    assert!(challenge.starts_with("Bearer "), "{challenge}");
    assert!(challenge.contains(&format!("resource_metadata=\"{described}\"")), "{challenge}");
    let usual = "scope=\"mcp-orch:execute mcp-orch:read mcp-orch:write\"";
    assert!(challenge.contains(usual), "no administrator unless asked for: {challenge}");
    assert!(!challenge.contains("error="), "nothing was wrong yet: {challenge}");

    for path in ["", "/mcp", "/mcp/some-profile"] {
        let url = format!("{base}/.well-known/oauth-protected-resource{path}");
        let said: Value = http().get(&url).send().await.unwrap().json().await.unwrap();
        assert_eq!(said["resource"], site.site.url, "{path}");
        assert_eq!(said["authorization_servers"], json!([authority.url()]));
        assert_eq!(said["bearer_methods_supported"], json!(["header"]));
        assert_eq!(said["scopes_supported"].as_array().unwrap().len(), 4);
    }
    // As the client calls us, so that it finds its own URL in it; and only by names that are ours.
    let port = base.rsplit_once(':').unwrap().1;
    let here = format!("localhost:{port}");
    let said: Value =
        http().get(&described).header("host", &here).send().await.unwrap().json().await.unwrap();
    assert_eq!(said["resource"], format!("http://{here}/mcp"));
    for foreign in ["evil.example", "evil.example:80"] {
        let refused = http().get(&described).header("host", foreign).send().await.unwrap();
        assert_eq!(refused.status(), 403);
        let refused = http().post(&site.site.url).header("host", foreign).send().await.unwrap();
        assert_eq!(refused.status(), 403, "no challenge for a name that was made to lead here");
        assert!(refused.headers().get("www-authenticate").is_none());
    }
    let refused =
        http().get(&site.site.url).header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(refused.status(), 403);
    // Our own keys are as good as before.
    assert_eq!(knock(&site, &site.key(json!({})).await).await.0, 200);
    assert_eq!(authority.n_fetched(), 0);
}

#[tokio::test]
async fn without_an_issuer_there_is_nothing_of_it() {
    let site = Guarded::start(json!({}), "").await;
    let url = format!("{}/.well-known/oauth-protected-resource", site.server.url);
    assert_eq!(http().get(&url).send().await.unwrap().status(), 404);
    let bare = http().post(&site.site.url).json(&json!({})).send().await.unwrap();
    assert!(!bare.headers()["www-authenticate"].to_str().unwrap().contains("resource_metadata"));
}

#[tokio::test]
async fn tokens_of_every_kind_of_key_get_in_and_no_further() {
    let keys = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256];
    let keys: Vec<Key> = keys.iter().map(|it| Key::new(&format!("{it:?}"), *it)).collect();
    let authority = Authority::start(keys.clone()).await;
    let witness = Witness::default();
    let servers = json!({"files": {"url": witness.start().await}});
    let site = Guarded::start(servers, &config(&authority, "")).await;
    let mut users = Vec::new();
    for key in &keys {
        let token = key.sign(&authority.claims(&site.site.url, json!({})));
        let me = site.tool(&token, "whoami", json!({})).await["result"]["structuredContent"].take();
        assert_eq!(me["permissions"], json!(["read", "execute"]), "{}: {me}", key.kid);
        users.push(me["id"].as_str().unwrap().to_owned());
        let answer = site.tool(&token, "files__read_file", json!({"path": "a"})).await;
        assert_eq!(answer["result"]["isError"], false, "{answer}");
        assert!(!witness.all().contains(&token), "a token is for us and goes nowhere else");
    }
    assert_eq!(witness.heard("tools/call").len(), 3);
    assert!(!witness.all().to_lowercase().contains("authorization"), "{}", witness.all());
    assert!(
        users.iter().all(|it| *it == users[0] && it.starts_with("oauth-00u-ann-")),
        "{users:?}"
    );
    assert_eq!(authority.n_fetched(), 1, "keys are kept");
    let audit = site.server.get("/audit?operation=call_tool").await;
    assert_eq!(audit["entries"][0]["user"], users[0].as_str(), "{audit}");

    // A session is for its user, whichever token it comes with.
    let first = keys[0].sign(&authority.claims(&site.site.url, json!({})));
    let session = mcp::Session::begin(&site.site, &first).await;
    let other = keys[1].sign(&authority.claims(&site.site.url, json!({"sub": "00u-bob"})));
    let stolen = mcp::Session { key: other, ..session };
    let message = mcp::request(Era::Legacy, json!(1), "tools/list", json!({}));
    assert_eq!(stolen.post(&message).send().await.unwrap().status(), 404);

    let reader = authority.claims(&site.site.url, json!({"scope": null, "scp": ["mcp-orch:read"]}));
    let reader = keys[0].sign(&reader);
    let listed = site.listed(&reader, "tools/list", "tools").await;
    assert!(listed.contains(&"list_nodes".to_owned()), "{listed:?}");
    assert!(!listed.iter().any(|it| it.starts_with("files__") || it == "launch_instance"));
    // Who is known to an issuer alone has no quota to launch with.
    let writer =
        keys[0].sign(&authority.claims(&site.site.url, json!({"scope": "mcp-orch:write"})));
    let refused = site.tool(&writer, "launch_instance", json!({"image": "a:1"})).await;
    assert_eq!(refused["result"]["isError"], true, "{refused}");
}

#[tokio::test]
async fn a_token_that_is_not_for_us_or_not_good_is_refused() {
    let (key, foreign) = (Key::new("a", Algorithm::ES256), Key::new("a", Algorithm::ES256));
    let authority = Authority::start(vec![key.clone()]).await;
    let stranger = Authority::start(vec![foreign.clone()]).await;
    let site = Guarded::start(json!({}), &config(&authority, "")).await;
    let url = &site.site.url;
    let now = jsonwebtoken::get_current_timestamp();
    let good = key.sign(&authority.claims(url, json!({})));
    assert_eq!(knock(&site, &good).await.0, 200);
    let with = |more: Value| key.sign(&authority.claims(url, more));
    let claims = authority.claims(url, json!({}));
    let public = key.public();
    let hmac = |secret: &[u8]| {
        let header = Header { kid: Some("a".to_owned()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let encoded = |it: &Value| URL_SAFE_NO_PAD.encode(it.to_string());
    let unsigned =
        format!("{}.{}.", encoded(&json!({"alg": "none", "kid": "a"})), encoded(&claims));
    let (head, signature) = good.rsplit_once('.').unwrap();
    let more = encoded(&authority.claims(url, json!({"scope": "mcp-orch:admin"})));
    let raised = format!("{}.{more}.{signature}", head.split_once('.').unwrap().0);
    let point = URL_SAFE_NO_PAD.decode(public["x"].as_str().unwrap()).unwrap();
    for (what, token) in [
        ("another audience", with(json!({"aud": "https://other.example/mcp"}))),
        ("several other audiences", with(json!({"aud": ["a", "http://127.0.0.1/mcp"]}))),
        ("no audience", with(json!({"aud": null}))),
        ("expired", with(json!({"exp": now - 60}))),
        ("without an end", with(json!({"exp": null}))),
        ("not valid yet", with(json!({"nbf": now + 120}))),
        ("of nobody", with(json!({"sub": null}))),
        ("another issuer", foreign.sign(&stranger.claims(url, json!({})))),
        ("another issuer's key", foreign.sign(&claims)),
        ("a shared secret that is the public key", hmac(public.to_string().as_bytes())),
        ("a shared secret that is the point", hmac(&point)),
        ("no signature", unsigned),
        ("raised by hand", raised),
        ("cut", good[..good.len() - 4].to_owned()),
    ] {
        let (status, challenge) = knock(&site, &token).await;
        assert_eq!(status, 401, "{what}");
        assert!(challenge.contains("error=\"invalid_token\""), "{what}: {challenge}");
        assert!(challenge.contains("resource_metadata="), "{what}: {challenge}");
    }
    assert_eq!(knock(&site, &with(json!({"aud": ["other", url]}))).await.0, 200);
    assert_eq!(knock(&site, &with(json!({"aud": format!("{url}/")}))).await.0, 200);
    // It names `/mcp` as its audience, so it is good for nothing else.
    assert_eq!(site.rest(&good, "GET", "/instances", None).await.status, 401);
    assert_eq!(stranger.n_fetched(), 0, "whom the configuration does not name is not asked");

    let weak = with(json!({"scope": "openid profile"}));
    let (status, challenge) = knock(&site, &weak).await;
    assert_eq!(status, 403);
    assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    assert!(challenge.contains("scope=\"mcp-orch:"), "{challenge}");
}

#[tokio::test]
async fn keys_change_and_the_issuer_may_be_away() {
    let (old, new) = (Key::new("old", Algorithm::ES256), Key::new("new", Algorithm::EdDSA));
    let authority = Authority::start(vec![old.clone()]).await;
    authority.set_down(true);
    let site = Guarded::start(json!({}), &config(&authority, "")).await;
    let url = site.site.url.clone();
    let with = |key: &Key| key.sign(&authority.claims(&url, json!({})));
    let by_old = with(&old);
    assert_eq!(
        knock(&site, &by_old).await.0,
        503,
        "nobody can say, and the client keeps its token"
    );
    authority.set_down(false);
    assert_eq!(knock(&site, &by_old).await.0, 200);

    authority.set_keys(vec![new.clone()]);
    assert_eq!(knock(&site, &by_old).await.0, 200, "nobody has asked again");
    assert_eq!(knock(&site, &with(&new)).await.0, 200, "a key that is not there is asked for");
    assert_eq!(knock(&site, &by_old).await.0, 401, "a key that was taken back counts no more");

    authority.set_down(true);
    assert_eq!(knock(&site, &with(&new)).await.0, 200, "its keys are known");
    // Anybody can name keys that nobody has.
    for n in 0..30 {
        let made_up = Key::new(&format!("made up {n}"), Algorithm::ES256);
        assert_eq!(knock(&site, &with(&made_up)).await.0, 401);
    }
    assert!(authority.n_fetched() <= 5, "{}", authority.n_fetched());
    assert_eq!(knock(&site, &with(&new)).await.0, 200);
}

#[tokio::test]
async fn an_issuer_that_calls_itself_otherwise_is_not_believed() {
    let key = Key::new("a", Algorithm::ES256);
    let authority = Authority::start(vec![key.clone()]).await;
    authority.lie("https://login.example.org");
    let site = Guarded::start(json!({}), &config(&authority, "")).await;
    let token = key.sign(&authority.claims(&site.site.url, json!({})));
    assert_eq!(knock(&site, &token).await.0, 503);
    assert_eq!(authority.n_fetched(), 0);
}

#[tokio::test]
async fn claims_name_a_user_here_and_limit_the_tools() {
    let key = Key::new("a", Algorithm::ES256);
    let authority = Authority::start(vec![key.clone()]).await;
    let witness = Witness::default();
    let servers = json!({"files": {"url": witness.start().await}});
    let more = "    audience: api://cloud
    required_scopes: [cloud]
    scopes: {cloud: [read, execute, admin]}
    user_claim: preferred_username
    tools_claim: tools
";
    let site = Guarded::start(servers, &config(&authority, more)).await;
    let with = |more: Value| {
        let mut claims = json!({"scope": "cloud"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key.sign(&authority.claims("api://cloud", claims))
    };
    let me = async |token: &str| {
        site.tool(token, "whoami", json!({})).await["result"]["structuredContent"].take()
    };
    let demo = with(json!({"preferred_username": "demo"}));
    let it = me(&demo).await;
    assert_eq!(
        (&it["id"], &it["permissions"]),
        (&json!("user-demo-001"), &json!(["read", "execute"]))
    );
    let tools = json!({"tools": {"deny": ["files.delete_*"]}});
    site.server.call("PUT", "/users/demo", Some(tools)).await;
    let listed = site.listed(&demo, "tools/list", "tools").await;
    assert!(listed.contains(&"files__read_file".to_owned()));
    assert!(!listed.contains(&"files__delete_file".to_owned()), "as the user here may");

    let nobody = me(&with(json!({"preferred_username": "carl"}))).await;
    assert!(nobody["id"].as_str().unwrap().starts_with("oauth-carl-"), "{nobody}");
    assert_eq!(nobody["permissions"], json!(["read", "execute", "admin"]));
    let limited = with(json!({"tools": {"allow": ["files.read_*"]}}));
    assert_eq!(site.listed(&limited, "tools/list", "tools").await, ["files__read_file"]);
    // A limit that cannot be read is not taken for none.
    assert_eq!(knock(&site, &with(json!({"tools": {"alow": ["*"]}}))).await.0, 401);
    let (status, challenge) = knock(&site, &with(json!({"scope": "mcp-orch:admin"}))).await;
    assert_eq!(status, 403);
    assert!(challenge.contains("scope=\"cloud\""), "{challenge}");
}

#[test]
fn a_configuration_that_is_not_safe_does_not_start() {
    let home = Home::new();
    for (config, arguments, said) in [
        ("issuers: [\"http://login.example.org\"]", &[][..], "has to begin with `https://`"),
        (
            "issuers: [\"https://a.example\", \"https://b.example\"], jwks_url: \"https://a.example/k\"",
            &[],
            "jwks_url",
        ),
        ("issuers: [\"https://a.example\"]", &["--no-auth"], "needs `security.enable_auth`"),
    ] {
        let file = home.write("config.yaml", &format!("security: {{oauth: {{{config}}}}}\n"));
        let mut words = vec!["serve", "--port", "0", "--config", file.to_str().unwrap()];
        words.extend(arguments);
        let ran = home.run(&words);
        assert_ne!(ran.status, 0);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
}
