//! Under which names the server may be addressed, and from which web pages: the guard against DNS rebinding.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

/// The hosts and origins of this server. Loopback names and the address it is bound to always count.
#[derive(Clone, Debug)]
pub struct Sites {
    bound: IpAddr,
    hosts: Vec<String>,
    origins: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("`{given}` is not {rule}")]
pub struct InvalidSite {
    pub given: String,
    pub rule: &'static str,
}

/// Why a request was turned away before anybody looked at it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this server is not addressed as `{sent}`; use `localhost`, or add the name to `server.allowed_hosts` in config.yaml"
    )]
    Host { sent: String },
    #[error(
        "pages of `{sent}` may not call this server; add it to `server.allowed_origins` in config.yaml if they should"
    )]
    Origin { sent: String },
}

impl Sites {
    /// Whether only this machine reaches the server.
    pub fn is_loopback(&self) -> bool {
        self.bound.is_loopback()
    }

    /// `hosts` are names without scheme and port, `origins` are `scheme://host[:port]`.
    pub fn new(bound: IpAddr, hosts: &[String], origins: &[String]) -> Result<Sites, InvalidSite> {
        let host = |given: &String| {
            let name = normal(given.trim());
            let is_name = !name.is_empty()
                && name
                    .parse::<Authority>()
                    .is_ok_and(|it| it.port().is_none() && it.host() == name);
            is_name.then_some(name).ok_or_else(|| InvalidSite {
                given: given.clone(),
                rule: "a host name or address without scheme and port",
            })
        };
        let origin = |given: &String| {
            let text = given.trim().trim_end_matches('/').to_ascii_lowercase();
            split_origin(&text).map(|_| text.clone()).ok_or_else(|| InvalidSite {
                given: given.clone(),
                rule: "an origin such as `https://console.example.com`",
            })
        };
        Ok(Sites {
            bound,
            hosts: hosts.iter().map(host).collect::<Result<_, _>>()?,
            origins: origins.iter().map(origin).collect::<Result<_, _>>()?,
        })
    }

    pub fn loopback() -> Sites {
        Sites {
            bound: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            hosts: Vec::new(),
            origins: Vec::new(),
        }
    }

    /// Checks `Host` (HTTP/2: the authority) and, when a browser sent one, `Origin`.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let sent = match (hosts.next(), hosts.next(), uri.authority()) {
            (Some(one), None, _) => String::from_utf8_lossy(one.as_bytes()).into_owned(),
            (None, None, Some(authority)) => authority.as_str().to_owned(),
            (None, ..) => "(no Host header)".to_owned(),
            (Some(_), Some(_), _) => "(several Host headers)".to_owned(),
        };
        let refused = || Refusal::Host { sent: orch_domain::text::excerpt(&sent, 100) };
        let authority = sent.parse::<Authority>().map_err(|_| refused())?;
        if authority.as_str().contains('@') || !self.is_ours(authority.host()) {
            return Err(refused());
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes()).to_ascii_lowercase();
            if !self.may_call(&origin, &authority) {
                return Err(Refusal::Origin { sent: orch_domain::text::excerpt(&origin, 100) });
            }
        }
        Ok(())
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = normal(host);
        if self.hosts.contains(&host) || host == "localhost" {
            return true;
        }
        // A rebound name arrives as a name. An address in `Host` was typed as one, so it cannot be rebound.
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok_and(|it| it.is_loopback() || it == self.bound || self.bound.is_unspecified())
    }

    /// The same site: a host of ours at the port that was called, or a configured host or origin.
    fn may_call(&self, origin: &str, called: &Authority) -> bool {
        if self.origins.iter().any(|it| it == origin) {
            return true;
        }
        let Some(from) = split_origin(origin) else { return false };
        self.hosts.contains(&normal(from.host()))
            || (self.is_ours(from.host()) && from.port_u16() == called.port_u16())
    }
}

/// Host and port of `http://host[:port]`; `null` and other schemes have none.
fn split_origin(origin: &str) -> Option<Authority> {
    let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"))?;
    rest.parse::<Authority>().ok().filter(|it| !it.as_str().contains('@'))
}

/// Lower case, without the final dot of a full name.
fn normal(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
