//! How soon a step runs whose line a model has just written, while the model goes on writing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use orch_core::Cx;
use orch_core::ports::model::{End, Model, Piece, Prompt};
use orch_core::service::batch::{Ask, Subject, Wanted, planner};
use orch_core::service::bootstrap::Users;
use orch_domain::Error;
use orch_domain::batch::StepState;
use orch_domain::caller::{Caller, Channel, Permission};
use orch_domain::name::UserId;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Figure, fixture, percentile, show};

const N_LINES: usize = 500;

/// Writes what it is sent: a model cannot be had here, and its own speed is not what is measured.
struct Dictated(Mutex<Option<mpsc::UnboundedReceiver<Piece>>>);

#[async_trait]
impl Model for Dictated {
    fn name(&self) -> String {
        "dictated".to_owned()
    }

    async fn generate(
        &self,
        _: &Prompt,
    ) -> Result<BoxStream<'static, Result<Piece, Error>>, Error> {
        let pieces = self.0.lock().take().expect("it is asked once");
        Ok(futures::stream::unfold(pieces, async |mut it| Some((Ok(it.recv().await?), it))).boxed())
    }
}

pub(super) async fn measure() -> Figure {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let orch = fixture::open(dir.path());
    let (pen, pieces) = mpsc::unbounded_channel();
    let model = Arc::new(Dictated(Mutex::new(Some(pieces))));
    orch.bootstrap_users(Users::Local).await.expect("an administrator");
    // All tools fit, so that the model is asked for nothing else.
    let options = planner::Options {
        wants_answer: false,
        tool_budget_tokens: 1_000_000,
        ..planner::Options::default()
    };
    let words = "list the nodes again and again".to_owned();
    let wanted = Wanted {
        ask: Ask::Request { words, model, options },
        max_parallel: None,
        step_timeout: None,
        retries: None,
        deadline: None,
        client_token: None,
        arguments_hash: String::new(),
    };
    let admin = UserId::try_new("user-admin-001").expect("an id");
    let cx = Cx::new(Some(Caller::new(admin, Permission::ALL.to_vec(), Channel::Rest)));
    let accepted = orch.begin_batch(wanted, &cx).await.expect("a batch");
    let run = orch.follow_batch(&accepted.id, &cx).expect("it is there").expect("it runs");
    let mut changed = run.last_transition();
    let (mut waits, mut seen) = (Vec::new(), 0);
    for n in 0..N_LINES {
        let line = format!("{{\"id\": \"s{n}\", \"tool\": \"list_nodes\"}}\n");
        let written = Instant::now();
        pen.send(Piece::Text(line)).expect("somebody reads");
        'called: loop {
            for it in run.transitions(seen, 1000).expect("kept") {
                seen = it.number;
                if matches!(&it.subject, Subject::Step { id, state: StepState::Running, .. } if id.as_str()[1..] == n.to_string())
                {
                    waits.push(written.elapsed());
                    break 'called;
                }
            }
            changed.changed().await.expect("it runs");
        }
    }
    pen.send(Piece::End(End { is_cut: false, input_tokens: None, output_tokens: None })).ok();
    let (p50, p99) = (percentile(&mut waits, 0.5), percentile(&mut waits, 0.99));
    Figure {
        name: "batch: a line that a model has written to its call, 500 lines, p99",
        measured: format!("{} (p50 {})", show(p99), show(p50)),
        floor: "-".to_owned(),
        limit: "1 ms".to_owned(),
        holds: p99 <= Duration::from_millis(1),
    }
}
