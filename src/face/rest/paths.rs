//! Which path takes which method, and what is answered when none fits.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http::{HeaderValue, Method, StatusCode, header};

use crate::face::rest::problem::Problem;

const PREFIX: &str = "/api";

type Handler = Arc<dyn Fn(Request) -> BoxFuture<'static, Response> + Send + Sync>;

#[derive(Default)]
/// By path, with parameters named by their places; each with the path as it was first written.
pub(super) struct Paths(BTreeMap<String, (String, Vec<(Method, Handler)>)>);

impl Paths {
    pub(super) fn add(
        &mut self,
        method: Method,
        path: &str,
        handler: impl Fn(Request) -> BoxFuture<'static, Response> + Send + Sync + 'static,
    ) {
        let (shown, entries) = self.0.entry(positional(path)).or_default();
        if shown.is_empty() {
            path.clone_into(shown);
        }
        assert!(
            entries.iter().all(|(other, _)| *other != method),
            "each method of a path has one handler: {method} {path}"
        );
        entries.push((method, Arc::new(handler)));
    }

    pub(super) fn into_router(self) -> Router {
        let known: Arc<Vec<String>> =
            Arc::new(self.0.values().map(|(shown, _)| shown.clone()).collect());
        let mut router = Router::new();
        for (path, (_, entries)) in self.0 {
            let entries = Arc::new(entries);
            let serve = move |request: Request| dispatch(entries.clone(), request);
            let prefixed = if path == "/" { PREFIX.to_owned() } else { format!("{PREFIX}{path}") };
            router = router
                .route(&path, axum::routing::any(serve.clone()))
                .route(&prefixed, axum::routing::any(serve));
        }
        router.fallback(move |request: Request| async move {
            let path = request.uri().path();
            Problem::no_such_path(path, near(&known, path)).into_response()
        })
    }
}

/// Two routes of one shape may name its parameters differently; the router would take them for a conflict.
fn positional(path: &str) -> String {
    let segments = path.split('/').enumerate().map(|(i, it)| {
        let is_parameter = it.starts_with('{') && !it.starts_with("{*");
        if is_parameter { format!("{{{i}}}") } else { it.to_owned() }
    });
    segments.collect::<Vec<String>>().join("/")
}

/// The names that `route` gives to the parameters of its path, in their order.
pub(super) fn parameters(route: &str) -> impl Iterator<Item = &str> {
    route.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}'))
}

async fn dispatch(entries: Arc<Vec<(Method, Handler)>>, request: Request) -> Response {
    let is_head = request.method() == Method::HEAD;
    let method = if is_head { Method::GET } else { request.method().clone() };
    if let Some((_, handler)) = entries.iter().find(|(it, _)| *it == method) {
        let response = handler(request).await;
        return if is_head { response.map(|_| Body::empty()) } else { response };
    }
    let allowed = allowed(&entries);
    if method == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        return response;
    }
    Problem::wrong_method(request.method(), request.uri().path(), &allowed).into_response()
}

fn allowed(entries: &[(Method, Handler)]) -> String {
    let mut methods: Vec<&str> = entries.iter().map(|(it, _)| it.as_str()).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.join(", ")
}

/// The paths a mistyped one may mean, at most five.
fn near(known: &[String], path: &str) -> Vec<String> {
    let path = path.strip_prefix(PREFIX).unwrap_or(path).trim_matches('/');
    let given: Vec<&str> = path.split('/').take(8).collect();
    let mut scored: Vec<(usize, &String)> = known
        .iter()
        .filter_map(|it| {
            let segments: Vec<&str> = it.trim_matches('/').split('/').collect();
            let differences: usize = given
                .iter()
                .zip(&segments)
                .map(
                    |(given, known)| {
                        if known.starts_with('{') { 1 } else { distance(given, known) }
                    },
                )
                .sum();
            let is_close = distance(given[0], segments[0]) <= 2 && segments[0].len() > 2;
            let apart = differences + 3 * given.len().abs_diff(segments.len());
            is_close.then_some((apart, it))
        })
        .collect();
    scored.sort();
    scored.into_iter().take(5).map(|(_, it)| format!("`{it}`")).collect()
}

/// Levenshtein's, capped: beyond three letters nothing is near.
fn distance(left: &str, right: &str) -> usize {
    const FAR: usize = 4;
    if left == right {
        return 0;
    }
    if FAR <= left.len().abs_diff(right.len()) || 64 < left.len() {
        return FAR;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()].min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_is_told_what_is_near() {
        let known =
            ["/instances", "/instances/{id}", "/instances/{id}/stop", "/cluster/nodes", "/"]
                .map(str::to_owned);
        assert_eq!(near(&known, "/instance")[0], "`/instances`");
        assert_eq!(near(&known, "/api/instances/i-1/stpo")[0], "`/instances/{id}/stop`");
        assert_eq!(near(&known, "/cluster/node"), ["`/cluster/nodes`"]);
        assert!(near(&known, "/wp-login.php").is_empty());
        assert!(near(&known, "/").is_empty());
    }
}
