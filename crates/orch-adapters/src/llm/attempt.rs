//! One request after the other, until an answer has begun or there is no use in another.

use std::time::Duration;

use orch_core::ports::model::Prompt;
use orch_domain::Error;
use reqwest::header::CONTENT_TYPE;
use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use super::answer::Answer;
use super::fault::{self, Fault};
use super::{HttpModel, Limits};

/// After the first try.
const MAX_RETRIES: u32 = 2;
/// As much as there is to learn of an endpoint.
const MAX_LESSONS: u32 = 2;
/// Bytes of a refusal that are read, for its reason.
const MAX_REFUSAL: usize = 64 << 10;
/// Bytes of a list of models.
const MAX_LIST: usize = 8 << 20;
/// For a list of models, and for the body of a refusal.
const SOON: Duration = Duration::from_secs(10);

enum Tried {
    Begun(Box<Answer>),
    /// Refused for how it was asked, and there is another way to.
    AskOtherwise(Fault),
}

impl HttpModel {
    /// Up to the first piece, so that nothing has come of an answer that is asked for again.
    pub(super) async fn begin(&self, prompt: &Prompt) -> Result<Box<Answer>, Error> {
        let (mut n_retries, mut n_lessons) = (0, 0);
        loop {
            let fault = match self.attempt(prompt).await {
                Ok(Tried::Begun(answer)) => return Ok(answer),
                Ok(Tried::AskOtherwise(_)) if n_lessons < MAX_LESSONS => {
                    n_lessons += 1;
                    continue;
                }
                Ok(Tried::AskOtherwise(fault)) => fault,
                Err(fault) => fault,
            };
            let (error, after) = match fault {
                Fault::Passing { error, after } if n_retries < MAX_RETRIES => (error, after),
                fault => return Err(fault.into_error()),
            };
            let Some(wait) = wait(&self.limits, n_retries, after) else { return Err(error) };
            n_retries += 1;
            tracing::debug!(
                "`{}` is asked again in {wait:?}, for the {n_retries}. time: {error}",
                self.about.name()
            );
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self, prompt: &Prompt) -> Result<Tried, Fault> {
        let request = self.wire.request(&self.http, prompt).map_err(Fault::Final)?;
        let mut response = self.send(request, self.limits.idle).await?;
        let status = response.status().as_u16();
        if status == 400 {
            let body = beginning(&mut response).await;
            let fault = fault::refused(&self.about, status, response.headers(), &body);
            let is_learnt = self.wire.learn(&body);
            return if is_learnt { Ok(Tried::AskOtherwise(fault)) } else { Err(fault) };
        }
        self.check(&mut response).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let kind = kind.unwrap_or_default().to_ascii_lowercase();
        // Some compatible servers name no type, or a wrong one; these are answers of another form.
        if kind.starts_with("application/json") || kind.starts_with("text/html") {
            let body = beginning(&mut response).await;
            return Err(fault::no_stream(&self.about, &kind, &body));
        }
        let about = self.about.clone();
        let mut answer = Answer::new(about, response, self.wire.reader(), &self.limits);
        answer.begin().await?;
        Ok(Tried::Begun(Box::new(answer)))
    }

    async fn send(&self, request: RequestBuilder, limit: Duration) -> Result<Response, Fault> {
        match tokio::time::timeout(limit, request.send()).await {
            Ok(sent) => sent.map_err(|err| fault::unreachable(&self.about, err)),
            Err(_) => Err(fault::silent(&self.about, limit)),
        }
    }

    async fn check(&self, response: &mut Response) -> Result<(), Fault> {
        if response.status().is_success() {
            return Ok(());
        }
        let body = beginning(response).await;
        let status = response.status().as_u16();
        Err(fault::refused(&self.about, status, response.headers(), &body))
    }

    /// The `id` of each entry of `data`, as all that have such a list give it.
    pub(super) async fn list(&self, request: RequestBuilder) -> Result<Vec<String>, Error> {
        let mut response = self.send(request, SOON).await.map_err(Fault::into_error)?;
        self.check(&mut response).await.map_err(Fault::into_error)?;
        let body = up_to(&mut response, MAX_LIST).await;
        let list: Value = serde_json::from_slice(&body).unwrap_or_default();
        let ids = list["data"].as_array().into_iter().flatten();
        Ok(ids.filter_map(|it| it["id"].as_str().map(str::to_owned)).collect())
    }
}

/// None: longer than anybody waits for it.
fn wait(limits: &Limits, n_retries: u32, after: Option<Duration>) -> Option<Duration> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    let part = u64::from_le_bytes(bytes) as f64 / u64::MAX as f64;
    let backoff = limits.backoff * 2_u32.pow(n_retries);
    match after {
        Some(after) if limits.longest_wait < after => None,
        // Never earlier than it says, and not all at the same time.
        Some(after) => Some(after + backoff.mul_f64(part)),
        None => Some(backoff.mul_f64(0.5 + part)),
    }
}

/// That a reason cannot be read, or not soon, is no reason to hide the refusal.
async fn beginning(response: &mut Response) -> String {
    let body = up_to(response, MAX_REFUSAL).await;
    String::from_utf8_lossy(&body).into_owned()
}

async fn up_to(response: &mut Response, max: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk[..chunk.len().min(max - body.len())]);
            if max <= body.len() {
                break;
            }
        }
    };
    // What came until then is kept.
    drop(tokio::time::timeout(SOON, read).await);
    body
}
