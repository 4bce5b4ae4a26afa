//! From a server's refusal to where its users log in: the server's own metadata (RFC 9728), and its issuer's (RFC 8414 or
//! OpenID Connect).

use reqwest::{Client, Url};
use serde::Deserialize;

use super::Trouble;
use super::entry::OAuth;
use super::fetch::{allowed, get, shown};

/// What the metadata of an issuer says, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    pub(super) authorization_endpoint: Option<String>,
    pub(super) token_endpoint: String,
    pub(super) registration_endpoint: Option<String>,
    pub(super) device_authorization_endpoint: Option<String>,
    pub(super) revocation_endpoint: Option<String>,
    #[serde(default)]
    pub(super) scopes_supported: Vec<String>,
    #[serde(default)]
    pub(super) code_challenge_methods_supported: Vec<String>,
    #[serde(default)]
    pub(super) token_endpoint_auth_methods_supported: Vec<String>,
    /// RFC 9207: every answer says who gives it.
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    /// The address of a document stands for the client that it describes.
    #[serde(default)]
    pub(super) client_id_metadata_document_supported: bool,
}

#[derive(Deserialize)]
struct Protected {
    resource: Option<String>,
    #[serde(default)]
    authorization_servers: Vec<String>,
    #[serde(default)]
    scopes_supported: Vec<String>,
}

/// Where to log in for a server, and what for.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// What tokens are for.
    pub(super) resource: String,
    pub(super) scopes: Vec<String>,
    pub(super) metadata: Metadata,
}

/// `challenge` is what the server said when it refused.
pub(super) async fn discover(
    client: &Client,
    server: &Url,
    challenge: Option<&str>,
    entry: &OAuth,
) -> Result<Found, Trouble> {
    let said = challenge.map(parameters).unwrap_or_default();
    let of = |name: &str| said.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let protected = protected(client, server, of("resource_metadata")).await?;
    let resource = match (&entry.resource, protected.as_ref().and_then(|it| it.resource.as_ref())) {
        (Some(it), _) => it.clone(),
        (None, Some(it)) => {
            check_resource(it, server)?;
            it.clone()
        }
        (None, None) => canonical(server),
    };
    let offered =
        protected.as_ref().map(|it| it.authorization_servers.as_slice()).unwrap_or_default();
    let issuer = match (&entry.issuer, offered.first()) {
        (Some(it), _) => it.clone(),
        (None, Some(it)) => it.clone(),
        // As it was before servers had metadata: the issuer is the server itself.
        (None, None) => server.origin().ascii_serialization(),
    };
    let metadata = metadata(client, server, &issuer).await?;
    let mut scopes = if !entry.scopes.is_empty() {
        entry.scopes.clone()
    } else if let Some(it) = of("scope") {
        it.split_whitespace().map(str::to_owned).collect()
    } else {
        protected.map(|it| it.scopes_supported).unwrap_or_default()
    };
    // Else some issuers give nothing to make tokens new with.
    let offline = "offline_access".to_owned();
    if metadata.scopes_supported.contains(&offline) && !scopes.contains(&offline) {
        scopes.push(offline);
    }
    Ok(Found { resource, scopes, metadata })
}

/// The URL that stands for a server as a resource (RFC 8707).
fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_query(None);
    url.set_fragment(None);
    let text = String::from(url);
    text.strip_suffix('/').map(str::to_owned).unwrap_or(text)
}

/// A server may speak for itself and what it is part of, and for nobody else.
fn check_resource(resource: &str, server: &Url) -> Result<(), Trouble> {
    let said = Url::parse(resource).ok();
    let is_own = said.is_some_and(|said| {
        let (part, whole) =
            (server.path().trim_end_matches('/'), said.path().trim_end_matches('/'));
        let below = part.strip_prefix(whole).is_some_and(|it| it.is_empty() || it.starts_with('/'));
        said.origin() == server.origin() && below
    });
    if is_own {
        return Ok(());
    }
    Err(Trouble::Wrong(format!(
        "it says that it is the resource `{}`, and that is another than `{}`",
        orch_domain::text::excerpt(resource, 200),
        shown(server)
    )))
}

async fn protected(
    client: &Client,
    server: &Url,
    named: Option<&str>,
) -> Result<Option<Protected>, Trouble> {
    if let Some(named) = named {
        let url = allowed(named, server)?;
        return match get(client, &url).await? {
            Some(it) => Ok(Some(it)),
            None => Err(Trouble::Wrong(format!(
                "its metadata is not at `{}`, where it says",
                shown(&url)
            ))),
        };
    }
    for url in well_known(server, &["oauth-protected-resource"]) {
        if let Some(it) = get::<Protected>(client, &url).await?
            && !(it.resource.is_none() && it.authorization_servers.is_empty())
        {
            return Ok(Some(it));
        }
    }
    Ok(None)
}

async fn metadata(client: &Client, server: &Url, issuer: &str) -> Result<Metadata, Trouble> {
    let url = allowed(issuer, server)?;
    let mut places = Vec::new();
    for suffix in ["oauth-authorization-server", "openid-configuration"] {
        // With the path of the issuer behind it; without a path both are one.
        places.extend(well_known(&url, &[suffix]).first().cloned());
    }
    let path = url.path().trim_end_matches('/');
    if !path.is_empty() {
        let mut appended = url.clone();
        appended.set_path(&format!("{path}/.well-known/openid-configuration"));
        places.push(appended);
    }
    for place in &places {
        let Some(found) = get::<Metadata>(client, place).await? else { continue };
        if found.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(Trouble::Wrong(format!(
                "the metadata at `{}` is of another issuer, `{}`",
                shown(place),
                orch_domain::text::excerpt(&found.issuer, 200)
            )));
        }
        allowed(&found.token_endpoint, server)?;
        let others = [
            &found.authorization_endpoint,
            &found.registration_endpoint,
            &found.device_authorization_endpoint,
            &found.revocation_endpoint,
        ];
        for it in others.into_iter().flatten() {
            allowed(it, server)?;
        }
        return Ok(found);
    }
    Err(Trouble::Wrong(format!(
        "the issuer `{}` has no metadata at {}",
        shown(&url),
        places.iter().map(|it| format!("`{}`", it.path())).collect::<Vec<_>>().join(" or ")
    )))
}

/// At the root with the path behind it, and at the root alone.
fn well_known(of: &Url, suffixes: &[&str]) -> Vec<Url> {
    let mut out: Vec<Url> = Vec::new();
    for suffix in suffixes {
        for path in [of.path().trim_end_matches('/'), ""] {
            let mut url = of.clone();
            url.set_query(None);
            url.set_fragment(None);
            url.set_path(&format!("/.well-known/{suffix}{path}"));
            if !out.contains(&url) {
                out.push(url);
            }
        }
    }
    out
}

/// The parameters of the `Bearer` challenge in a `WWW-Authenticate`.
pub(super) fn parameters(challenge: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = challenge;
    let mut is_bearer = false;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end =
            rest.find(|it: char| !(it.is_ascii_alphanumeric() || "-_.~!#$%&'*+^`|".contains(it)));
        let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
        if word.is_empty() {
            return out;
        }
        let Some(value) = behind.trim_start().strip_prefix('=') else {
            // A word without a value begins another challenge.
            is_bearer = word.eq_ignore_ascii_case("bearer");
            rest = behind;
            continue;
        };
        let value = value.trim_start();
        let (text, behind) = match value.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let (text, behind) = value.split_at(value.find([',', ' ']).unwrap_or(value.len()));
                (text.to_owned(), behind)
            }
        };
        rest = behind;
        if is_bearer {
            out.push((word.to_ascii_lowercase(), text));
        }
    }
}

fn unquoted(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((i, it)) = chars.next() {
        match it {
            '"' => return (out, &text[i + 1..]),
            '\\' => out.extend(chars.next().map(|(_, it)| it)),
            it => out.push(it),
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_taken_apart() {
        let said = parameters(
            r#"Basic realm="a, b", Bearer error="invalid_token", error_description="say \"please\"", resource_metadata="https://a/x?y=1", scope="r w", x=1"#,
        );
        let said: Vec<(&str, &str)> = said.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            said,
            [
                ("error", "invalid_token"),
                ("error_description", "say \"please\""),
                ("resource_metadata", "https://a/x?y=1"),
                ("scope", "r w"),
                ("x", "1")
            ]
        );
        assert!(parameters("Bearer").is_empty());
        assert!(parameters(r#"Bearer realm="open"#).len() == 1);
        assert!(parameters("=== ,,").is_empty());
    }

    #[test]
    fn a_server_speaks_for_itself_alone() {
        let server = Url::parse("https://a.example/team/mcp?k=1").unwrap();
        for own in ["https://a.example/team/mcp", "https://a.example/team/", "https://a.example"] {
            assert!(check_resource(own, &server).is_ok(), "{own}");
        }
        for other in [
            "https://b.example/team/mcp",
            "https://a.example/te",
            "https://a.example/team/mcp/x",
            "http://a.example",
            "x",
        ] {
            assert!(check_resource(other, &server).is_err(), "{other}");
        }
        assert_eq!(canonical(&server), "https://a.example/team/mcp");
    }

    #[test]
    fn metadata_is_looked_for_with_the_path_and_without() {
        let of = |url: &str| {
            let url = Url::parse(url).unwrap();
            well_known(&url, &["x"]).iter().map(|it| it.path().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(of("https://a.example/t/mcp?q"), ["/.well-known/x/t/mcp", "/.well-known/x"]);
        assert_eq!(of("https://a.example/"), ["/.well-known/x"]);
    }
}
