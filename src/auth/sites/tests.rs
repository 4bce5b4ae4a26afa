use http::{HeaderMap, HeaderName, Uri};

use super::*;

fn sites(bound: &str) -> Sites {
    Sites::new(
        bound.parse().unwrap(),
        &["orch.example.com".to_owned()],
        &["https://console.example.net".to_owned()],
    )
    .unwrap()
}

fn check(bound: &str, headers: &[(&'static str, &str)]) -> Result<(), Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), value.parse().unwrap());
    }
    sites(bound).check(&Uri::from_static("/instances"), &map)
}

#[test]
fn loopback_names_and_configured_hosts_are_ours() {
    for host in [
        "localhost",
        "localhost:3000",
        "LOCALHOST.:3000",
        "127.0.0.1:3000",
        "127.8.8.8",
        "[::1]:3000",
        "orch.example.com",
        "Orch.Example.com:443",
    ] {
        assert_eq!(check("127.0.0.1", &[("host", host)]), Ok(()), "{host}");
    }
}

#[test]
fn other_names_are_not() {
    for host in [
        "evil.example.com",
        "evil.example.com:3000",
        "localhost.evil.example.com",
        "localhost@evil.example.com",
        "evil.example.com@localhost",
        "10.0.0.5:3000",
        "[fe80::1]",
        "",
        "local host",
        "127.0.0.1.nip.example",
    ] {
        assert!(check("127.0.0.1", &[("host", host)]).is_err(), "{host}");
    }
    assert!(check("127.0.0.1", &[]).is_err());
    assert!(check("127.0.0.1", &[("host", "localhost"), ("host", "localhost")]).is_err());
}

#[test]
fn a_server_on_all_addresses_takes_addresses_but_no_unknown_names() {
    assert_eq!(check("0.0.0.0", &[("host", "10.0.0.5:3000")]), Ok(()));
    assert!(check("0.0.0.0", &[("host", "evil.example.com:3000")]).is_err());
    assert_eq!(check("10.0.0.5", &[("host", "10.0.0.5:3000")]), Ok(()));
    assert!(check("10.0.0.5", &[("host", "10.0.0.6:3000")]).is_err());
}

#[test]
fn pages_of_the_same_site_may_call() {
    for (host, origin) in [
        ("localhost:3000", "http://localhost:3000"),
        ("localhost:3000", "http://127.0.0.1:3000"),
        ("localhost:3000", "https://orch.example.com"),
        ("orch.example.com", "https://orch.example.com"),
        ("localhost:3000", "https://console.example.net"),
    ] {
        assert_eq!(check("127.0.0.1", &[("host", host), ("origin", origin)]), Ok(()), "{origin}");
    }
}

#[test]
fn pages_of_other_sites_may_not() {
    for origin in [
        "null",
        "http://evil.example.com",
        "http://evil.example.com:3000",
        "http://localhost:8080",
        "http://localhost:3000@evil.example.com",
        "http://console.example.net",
        "https://console.example.net.evil.example.com",
        "file://",
        "",
    ] {
        let refusal = check("127.0.0.1", &[("host", "localhost:3000"), ("origin", origin)]);
        assert!(matches!(refusal, Err(Refusal::Origin { .. })), "{origin}: {refusal:?}");
    }
}

#[test]
fn the_authority_of_http2_counts_as_host() {
    let map = HeaderMap::new();
    assert_eq!(
        sites("127.0.0.1").check(&Uri::from_static("http://localhost:3000/x"), &map),
        Ok(())
    );
    assert!(
        sites("127.0.0.1").check(&Uri::from_static("http://evil.example.com/x"), &map).is_err()
    );
}

#[test]
fn configuration_is_checked() {
    let ip = "127.0.0.1".parse().unwrap();
    for host in ["https://x.example.com", "x.example.com:80", "", "a b"] {
        assert!(Sites::new(ip, &[host.to_owned()], &[]).is_err(), "{host}");
    }
    for origin in ["x.example.com", "ftp://x", "*", "null"] {
        assert!(Sites::new(ip, &[], &[origin.to_owned()]).is_err(), "{origin}");
    }
}
