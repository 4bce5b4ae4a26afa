//! Batches: one that every launch adds a run to, and random ones of every shape.

use std::sync::Arc;

use orch_domain::batch::{
    Batch, BatchChange, BatchState, Kept, Part, Reason, RunsFor, StepRun, StepState, Terms,
};
use orch_domain::caller::Channel;
use orch_domain::name::{ApiKeyId, BatchId, ClientToken, StepId};
use orch_domain::plan::{Compensation, OnError, Retry, Step};
use orch_domain::time::Timestamp;
use orch_domain::tool_access::ToolAccess;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::{permissions, text, time, tools, user_id};

/// The `n`th, with steps that nobody defined.
pub(in crate::store::tests) fn batch(n: u32) -> Batch {
    Batch { state: BatchState::Running, ..Batch::test(n) }
}

/// What one more step of batch 0 commits.
pub(super) fn progress(n: u32) -> Vec<BatchChange> {
    let batch = Batch { n_steps: n + 1, ..batch(0) };
    let run = BatchChange::Run { batch: batch.id.clone(), run: Arc::new(progress_run(n)) };
    vec![BatchChange::Put(Arc::new(batch)), run]
}

pub(in crate::store::tests) fn progress_run(n: u32) -> StepRun {
    let result = json!({"content": [{"type": "text", "text": format!("step {n}")}]});
    StepRun {
        state: StepState::Succeeded,
        attempt: 1,
        result: Some(Kept::Inline(Arc::new(result))),
        started_at: Some(Timestamp::from_millis(i64::from(n))),
        ended_at: Some(Timestamp::from_millis(i64::from(n) + 5)),
        ..StepRun::test(n)
    }
}

fn batch_id() -> impl Strategy<Value = BatchId> {
    // Few, so that rows are replaced and forgotten too, and some that differ in their last digit only.
    select(vec![(1, 1), (1, 2), (7, 0), (1 << 40, 3)])
        .prop_map(|(at, random)| BatchId::new(Timestamp::from_millis(at), random))
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
        vec(text(), 0..3).prop_map(|it| json!({"content": it, "structuredContent": {"n": 1.5}})),
    ]
}

fn any_reason() -> impl Strategy<Value = Option<Reason>> {
    option::of((text(), text()).prop_map(|(code, message)| Reason { code, message }))
}

fn any_on_error() -> impl Strategy<Value = OnError> {
    select(vec![OnError::Fail, OnError::Continue, OnError::Compensate])
}

fn any_runs_for() -> impl Strategy<Value = RunsFor> {
    let channels = vec![Channel::Mcp, Channel::Rest, Channel::Grpc, Channel::Cli, Channel::System];
    let rest = (option::of(text()), option::of(any::<u64>()), option::of(text()));
    (user_id(), permissions(), select(channels), vec(tools(), 0..3), rest).prop_map(
        |(user, permissions, channel, tools, (client, key, profile))| RunsFor {
            user,
            permissions,
            channel,
            client,
            tools: tools.iter().fold(ToolAccess::default(), ToolAccess::and),
            key: key.map(ApiKeyId::new),
            profile,
        },
    )
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let states = vec![
        BatchState::Queued,
        BatchState::Planning,
        BatchState::Running,
        BatchState::Succeeded,
        BatchState::Failed,
        BatchState::Cancelled,
    ];
    let terms = (any::<u32>(), any::<u64>(), any::<u32>(), time(), any_on_error()).prop_map(
        |(max_parallel, step_timeout_ms, retries, deadline, on_error)| Terms {
            max_parallel,
            step_timeout_ms,
            retries,
            deadline,
            on_error,
        },
    );
    let token = option::of("[!-~]{1,64}");
    let asked = (option::of(text()), token, option::of("[0-9a-f]{64}"));
    let answered = (option::of(any_value()), option::of(text()), any::<u32>());
    let times = (time(), option::of(time()), option::of(time()));
    ((batch_id(), any_runs_for(), select(states), any_reason()), terms, asked, answered, times)
        .prop_map(
            |(
                (id, runs_for, state, reason),
                terms,
                (request, client_token, arguments_hash),
                (output, answer, n_steps),
                (created_at, started_at, ended_at),
            )| Batch {
                id,
                runs_for,
                state,
                reason,
                request,
                client_token: client_token.map(|it| ClientToken::try_new(it).unwrap()),
                arguments_hash,
                terms,
                output,
                answer,
                n_steps,
                created_at,
                started_at,
                ended_at,
            },
        )
}

fn any_arguments() -> impl Strategy<Value = Map<String, Value>> {
    vec((text(), any_value()), 0..3).prop_map(|it| it.into_iter().collect())
}

fn any_step() -> impl Strategy<Value = Step> {
    let step_id = || "[A-Za-z_][A-Za-z0-9_-]{5,9}".prop_map(|it| StepId::try_new(it).unwrap());
    // Not null, which says the same as nothing in the plan format.
    let value = || option::of(any_value().prop_filter("a value", |it| !it.is_null()));
    let compensation =
        (text(), any_arguments()).prop_map(|(tool, arguments)| Compensation { tool, arguments });
    let retry =
        (any::<u32>(), any::<u64>()).prop_map(|(max, backoff_ms)| Retry { max, backoff_ms });
    let fans = (value(), option::of(any::<u32>()), option::of(text()));
    let limits = (option::of(any::<u16>()), option::of(retry), option::of(any_on_error()));
    (
        (step_id(), text(), any_arguments(), vec(step_id(), 0..3), value()),
        fans,
        limits,
        option::of(compensation),
    )
        .prop_map(
            |(
                (id, tool, arguments, depends_on, when),
                (for_each, max_parallel, collect),
                (timeout, retry, on_error),
                compensate,
            )| Step {
                id,
                tool,
                arguments,
                depends_on,
                when,
                for_each,
                max_parallel,
                collect,
                timeout: timeout.map(f64::from),
                retry,
                on_error,
                compensate,
            },
        )
}

fn any_run() -> impl Strategy<Value = StepRun> {
    let number = || prop_oneof![0..3u32, Just(256), Just(u32::MAX)];
    let part = (number(), option::of(number()), any::<bool>())
        .prop_map(|(step, element, is_compensation)| Part { step, element, is_compensation });
    let result = prop_oneof![
        any_value().prop_map(|it| Kept::Inline(Arc::new(it))),
        ("[a-z]{1,9}", any::<u64>()).prop_map(|(name, n_bytes)| Kept::Large { name, n_bytes }),
    ];
    let state = select(StepState::ALL.to_vec());
    let times = (option::of(time()), option::of(time()));
    (part, state, any::<u32>(), any_reason(), option::of(result), times).prop_map(
        |(part, state, attempt, reason, result, (started_at, ended_at))| StepRun {
            part,
            state,
            attempt,
            reason,
            result,
            started_at,
            ended_at,
        },
    )
}

pub(super) fn any_batch_change() -> impl Strategy<Value = BatchChange> {
    prop_oneof![
        3 => any_batch().prop_map(|it| BatchChange::Put(Arc::new(it))),
        2 => (batch_id(), 0..4u32, any_step()).prop_map(|(batch, place, step)| {
            BatchChange::Define { batch, place, step: Arc::new(step) }
        }),
        4 => (batch_id(), any_run())
            .prop_map(|(batch, run)| BatchChange::Run { batch, run: Arc::new(run) }),
        1 => batch_id().prop_map(BatchChange::Forget),
    ]
}
