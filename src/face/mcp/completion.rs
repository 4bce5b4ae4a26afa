//! What a person may be about to type: ids and images that the caller may see.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use orch_core::{Cx, Orch, gate};
use orch_domain::caller::Permission;
use orch_domain::{Error, page};
use orch_gateway::names::own_name;
use rmcp::model::{CompleteRequestParams, CompleteResult, CompletionInfo, Reference};
use serde_json::json;

use super::prompt::{Completes, Prompts};
use super::resource;

/// Somebody is typing: better what is known at once than all of it late.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn complete(
    orch: &Arc<Orch>,
    prompts: &Prompts,
    cx: &Cx,
    request: &CompleteRequestParams,
) -> Result<CompleteResult, Error> {
    gate::permit("completion/complete", Permission::Read, cx)?;
    let argument = &request.argument;
    let completes = match &request.r#ref {
        Reference::Prompt(it) => {
            let prompt = prompts.get(own_name(&it.name)).ok_or_else(|| {
                Error::invalid(
                    "ref",
                    "there is no such prompt; `prompts/list` shows those there are",
                )
            })?;
            prompt.permit(cx)?;
            prompt.completes(&argument.name)
        }
        Reference::Resource(it) => resource::completes(&it.uri, &argument.name),
        _ => None,
    };
    let completes = completes.ok_or_else(|| {
        Error::invalid(
            "argument",
            "the prompt or template that is referred to has no such argument",
        )
    })?;
    let candidates = match completes {
        Completes::Nodes => orch.ledger.read(|book| {
            book.slots().map(|it| it.node.id.to_string()).collect::<BTreeSet<String>>()
        }),
        Completes::Instances => instance_ids(orch, cx)?,
        Completes::Images => images(orch, cx, &argument.value).await?,
        Completes::Nothing => BTreeSet::new(),
    };
    Ok(CompleteResult::new(best(candidates, &argument.value)))
}

fn instance_ids(orch: &Orch, cx: &Cx) -> Result<BTreeSet<String>, Error> {
    let caller = cx.caller()?;
    Ok(orch.ledger.read(|book| {
        let seen = book.instances_after(None).filter(|it| caller.sees(&it.owner));
        seen.filter(|it| it.state.holds_reservation()).map(|it| it.id.to_string()).collect()
    }))
}

/// Of the caller's instances, and those the nodes have.
async fn images(orch: &Arc<Orch>, cx: &Cx, typed: &str) -> Result<BTreeSet<String>, Error> {
    let caller = cx.caller()?;
    let mut images: BTreeSet<String> = orch.ledger.read(|book| {
        let seen = book.instances_after(None).filter(|it| caller.sees(&it.owner));
        seen.map(|it| it.image.to_string()).collect()
    });
    let arguments = json!({"name": typed, "page_size": page::MAX_PAGE_SIZE});
    let listed = resource::ask(orch, cx, "list_images", arguments);
    if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, listed).await {
        let entries = answer["images"].as_array().into_iter().flatten();
        images.extend(entries.filter_map(|it| it["image"].as_str()).map(str::to_owned));
    }
    Ok(images)
}

/// Those that begin with what was typed, then those that have it somewhere.
fn best(candidates: BTreeSet<String>, typed: &str) -> CompletionInfo {
    let typed = typed.to_lowercase();
    let (mut found, elsewhere): (Vec<String>, Vec<String>) = candidates
        .into_iter()
        .filter(|it| it.to_lowercase().contains(&typed))
        .partition(|it| it.to_lowercase().starts_with(&typed));
    found.extend(elsewhere);
    let mut info = CompletionInfo::default();
    info.total = u32::try_from(found.len()).ok();
    info.has_more = Some(CompletionInfo::MAX_VALUES < found.len());
    found.truncate(CompletionInfo::MAX_VALUES);
    info.values = found;
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_so_comes_first_and_a_hundred_are_enough() {
        let names = ["web-1", "db", "my-web"].map(str::to_owned);
        let info = best(BTreeSet::from(names), "WEB");
        assert_eq!(info.values, ["web-1", "my-web"]);
        let many: BTreeSet<String> = (0..250).map(|it| format!("n{it}")).collect();
        let info = best(many, "n");
        assert_eq!((info.values.len(), info.total, info.has_more), (100, Some(250), Some(true)));
    }
}
