//! `"oauth": {…}` of a server in `mcp-config.json`: what of a login is fixed beforehand.

use orch_core::ports::server_login::CALLBACK;
use orch_domain::secret::Secret;
use serde::Deserialize;

/// Everything is found out where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    /// Of a client that was registered with the issuer by hand.
    #[serde(alias = "clientId")]
    pub client_id: Option<String>,
    #[serde(alias = "clientSecret")]
    pub client_secret: Option<Secret<String>>,
    /// What is asked for, in place of what the server says that it needs.
    #[serde(default, alias = "scope", deserialize_with = "words")]
    pub scopes: Vec<String>,
    /// The authorization server, for servers that name none or several.
    pub issuer: Option<String>,
    /// What tokens are asked for; the server's URL unless the server says otherwise.
    pub resource: Option<String>,
    /// Where a Client ID Metadata Document of this gateway is published; it is the client id where the issuer takes such.
    #[serde(alias = "clientMetadataUrl")]
    pub client_metadata_url: Option<String>,
    /// Where browsers come back to, ending in `/oauth/callback`; for a gateway behind a proxy, or a registered client.
    #[serde(alias = "redirectUri")]
    pub redirect_uri: Option<String>,
    /// The gateway itself logs in with its id and secret, and all its users share that login.
    #[serde(default, alias = "clientCredentials")]
    pub client_credentials: bool,
}

impl OAuth {
    /// The error is the member and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.client_secret.is_some() && self.client_id.is_none() {
            return Err(("client_secret", "it needs the `client_id` that it belongs to"));
        }
        if self.client_credentials && self.client_secret.is_none() {
            return Err(("client_credentials", "it needs `client_id` and `client_secret`"));
        }
        for (member, value) in [("issuer", &self.issuer), ("resource", &self.resource)] {
            if value.as_ref().is_some_and(|it| !is_http(it)) {
                return Err((member, "it has to be an `https://` address"));
            }
        }
        if self.client_metadata_url.as_ref().is_some_and(|it| !it.starts_with("https://")) {
            return Err(("client_metadata_url", "it has to be an `https://` address"));
        }
        if self.redirect_uri.as_ref().is_some_and(|it| !is_http(it) || !it.ends_with(CALLBACK)) {
            return Err((
                "redirect_uri",
                "it has to be an address of this gateway that ends in `/oauth/callback`",
            ));
        }
        Ok(())
    }
}

fn is_http(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// A list, or words in one text as the protocol has them.
fn words<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Written::deserialize(from)? {
        Written::List(it) => it,
        Written::Text(it) => it.split_whitespace().map(str::to_owned).collect(),
    })
}
