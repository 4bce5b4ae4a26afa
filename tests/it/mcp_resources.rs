//! The cluster as resources: read, listed in pages, and watched in both eras; each caller sees what is theirs.

use orch_core::ports::engine::LogStream;
use orch_domain::node::Node;
use rmcp::model::{
    ErrorCode, ReadResourceRequestParams, ResourceContents, ServerNotification,
    SubscribeRequestParams, SubscriptionFilter, UnsubscribeRequestParams,
};
use rmcp::service::{ServiceError, Subscription};
use serde_json::{Value, json};

use crate::harness::mcp::{self, Client, EVERY_WAY, Era, Heard, Way};
use crate::harness::world::{ADMIN, DEMO, World};
use crate::harness::{eventually, within};

async fn read(client: &Client, uri: &str) -> Result<Value, ErrorCode> {
    let reading = client.read_resource(ReadResourceRequestParams::new(uri));
    match within(uri, reading).await {
        Ok(result) => {
            let ResourceContents::TextResourceContents { text, mime_type, uri: of, .. } =
                &result.contents[0]
            else {
                panic!("{uri} is text")
            };
            assert_eq!((mime_type.as_deref(), of.as_str()), (Some("application/json"), uri));
            Ok(serde_json::from_str(text).unwrap())
        }
        Err(ServiceError::McpError(err)) => Err(err.code),
        Err(err) => panic!("{uri}: {err}"),
    }
}

async fn launch(client: &Client, name: &str) -> String {
    let arguments = json!({"image": "nginx:alpine", "name": name});
    let launched = client.answer("launch_instance", arguments).await;
    launched["id"].as_str().unwrap().to_owned()
}

async fn uris(client: &Client) -> Vec<String> {
    let all = within("resources", client.list_all_resources()).await.unwrap();
    all.into_iter().map(|it| it.uri).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_say_what_the_operations_say() {
    let world = World::with_nodes(2).await;
    for (way, era) in EVERY_WAY {
        let client = mcp::connect(&world, DEMO, way, era).await;
        let id = launch(&client, "web").await;
        let instance = format!("instance://{id}");
        let answer = client.answer("get_instance", json!({"id": id})).await;
        assert_eq!(read(&client, &instance).await.unwrap(), answer);
        assert_eq!(read(&client, "node://n1").await.unwrap()["id"], "n1");
        assert!(read(&client, "cluster://status").await.unwrap().is_object());
        assert!(read(&client, &format!("{instance}/logs")).await.unwrap().is_object());
        let templates = client.list_all_resource_templates().await.unwrap();
        let templates: Vec<&str> = templates.iter().map(|it| it.uri_template.as_str()).collect();
        assert_eq!(templates, ["node://{id}", "instance://{id}", "instance://{id}/logs"]);
        let not_there = match era {
            Era::Legacy => ErrorCode::RESOURCE_NOT_FOUND,
            Era::Modern => ErrorCode::INVALID_PARAMS,
        };
        for bad in ["node://nowhere", "instance://i-00000000000000000", "file:///etc/passwd", "x"] {
            assert_eq!(read(&client, bad).await.unwrap_err(), not_there, "{way:?} {era:?} {bad}");
        }
        client.answer("terminate_instance", json!({"id": id})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_the_nodes_and_their_own_instances() {
    let world = World::with_nodes(2).await;
    let admin = mcp::connect(&world, ADMIN, Way::Http, Era::Modern).await;
    let demo = mcp::connect(&world, DEMO, Way::Http, Era::Modern).await;
    let of_admin = launch(&admin, "a").await;
    let of_demo = launch(&demo, "d").await;
    let common =
        ["cluster://status", "events://latest", "node://n1", "node://n2"].map(str::to_owned);
    let pair = |id: &str| [format!("instance://{id}"), format!("instance://{id}/logs")];
    assert_eq!(uris(&demo).await, [&common[..], &pair(&of_demo)].concat());
    let mut mine = pair(&of_admin).to_vec();
    mine.extend(pair(&of_demo));
    assert_eq!(uris(&admin).await, [&common[..], &mine].concat());
    let foreign = format!("instance://{of_admin}");
    assert_eq!(read(&demo, &foreign).await.unwrap_err(), ErrorCode::INVALID_PARAMS);
    demo.answer("terminate_instance", json!({"id": of_demo})).await;
    assert_eq!(uris(&demo).await, common, "what is terminated is not listed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_comes_in_pages() {
    let world = World::with_nodes(0).await;
    for i in 0..450 {
        world.add_node(Node::test(&format!("n{i:03}"))).await;
    }
    let client = mcp::connect(&world, DEMO, Way::Stream, Era::Modern).await;
    let id = launch(&client, "last").await;
    let first = client.list_resources(None).await.unwrap();
    assert!(first.next_cursor.is_some());
    assert!(first.resources.len() < 300);
    let all = uris(&client).await;
    assert_eq!(all.len(), 2 + 450 + 2);
    assert_eq!(all.last().unwrap(), &format!("instance://{id}/logs"));
    let cursor = Some("6e6f6e73656e7365".to_owned());
    let request = rmcp::model::PaginatedRequestParams::default().with_cursor(cursor);
    let err = client.list_resources(Some(request)).await.unwrap_err();
    assert!(matches!(err, ServiceError::McpError(it) if it.code == ErrorCode::INVALID_PARAMS));
}

#[expect(deprecated, reason = "this is how clients up to 2025-11-25 subscribe")]
#[tokio::test(flavor = "multi_thread")]
async fn a_session_hears_of_what_it_subscribed_to() {
    let world = World::with_nodes(1).await;
    for way in [Way::Stream, Way::Http] {
        let mut client = mcp::connect(&world, DEMO, way, Era::Legacy).await;
        let admin = mcp::connect(&world, ADMIN, Way::Stream, Era::Legacy).await;
        let foreign = launch(&admin, "foreign").await;
        let id = launch(&client, "own").await;
        assert_eq!(client.hears().await, Heard::ListChanged, "an instance came");
        let own = format!("instance://{id}");
        client.subscribe(SubscribeRequestParams::new(own.as_str())).await.unwrap();
        for bad in [format!("instance://{foreign}"), "node://nowhere".to_owned(), "x".to_owned()] {
            let err =
                client.subscribe(SubscribeRequestParams::new(bad.as_str())).await.unwrap_err();
            let ServiceError::McpError(err) = err else { panic!("{bad}: {err}") };
            assert_eq!(err.code, ErrorCode::RESOURCE_NOT_FOUND, "{bad}");
        }
        // Of somebody else's instance nothing is heard, so the first word is of the own one.
        admin.answer("stop_instance", json!({"id": foreign})).await;
        client.answer("stop_instance", json!({"id": id})).await;
        assert_eq!(client.hears().await, Heard::Updated(own.clone()));
        client.unsubscribe(UnsubscribeRequestParams::new(own.as_str())).await.unwrap();
        client.answer("start_instance", json!({"id": id})).await;
        client.answer("terminate_instance", json!({"id": id})).await;
        let until_gone = async { while client.heard.recv().await != Some(Heard::ListChanged) {} };
        within("word that it went", until_gone).await;
        admin.answer("terminate_instance", json!({"id": foreign})).await;
    }
}

async fn next(subscription: &mut Subscription) -> ServerNotification {
    within("a notification", subscription.next()).await.unwrap().expect("it goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_hears_of_what_it_asked_for_until_the_server_ends() {
    for way in [Way::Stream, Way::Http] {
        let world = World::with_nodes(1).await;
        let client = mcp::connect(&world, DEMO, way, Era::Modern).await;
        let admin = mcp::connect(&world, ADMIN, Way::Stream, Era::Modern).await;
        let foreign = launch(&admin, "foreign").await;
        let id = launch(&client, "own").await;
        let own = format!("instance://{id}");
        let filter = SubscriptionFilter::builder()
            .tools_list_changed()
            .resources_list_changed()
            .resource_subscription(own.as_str())
            .resource_subscription("file:///etc/passwd")
            .build();
        let mut all = within("the acknowledgment", client.listen(filter)).await.unwrap();
        let accepted = all.acknowledged();
        assert_eq!(accepted.tools_list_changed, Some(true), "those of servers behind change");
        assert_eq!(accepted.resources_list_changed, Some(true));
        assert_eq!(accepted.resource_subscriptions.as_deref(), Some(&[own.clone()][..]));
        let only_list = SubscriptionFilter::builder().resources_list_changed().build();
        let mut only_list = within("another one", client.listen(only_list)).await.unwrap();

        admin.answer("stop_instance", json!({"id": foreign})).await;
        client.answer("stop_instance", json!({"id": id})).await;
        let update = loop {
            match next(&mut all).await {
                ServerNotification::ResourceUpdatedNotification(it) => break it,
                // Whoever came or went in the moment of subscribing.
                ServerNotification::ResourceListChangedNotification(_) => {}
                other => panic!("nothing else was asked for: {other:?}"),
            }
        };
        assert_eq!(update.params.uri, own);
        launch(&client, "another").await;
        let first = next(&mut only_list).await;
        assert!(
            matches!(first, ServerNotification::ResourceListChangedNotification(_)),
            "{first:?}"
        );

        world.orch().shutdown.cancel();
        let to_the_end = async { while all.next().await.unwrap().is_some() {} };
        within("the end", to_the_end).await;
        if way == Way::Http {
            assert!(
                matches!(all.end(), Some(rmcp::service::SubscriptionEnd::Graceful { .. })),
                "{:?}",
                all.end()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_grows_is_told_of() {
    let world = World::with_nodes(1).await;
    let client = mcp::connect(&world, DEMO, Way::Stream, Era::Modern).await;
    let id = launch(&client, "talker").await;
    let (logs, container) = (format!("instance://{id}/logs"), format!("mo-{id}"));
    let filter = SubscriptionFilter::builder().resource_subscription(logs.as_str()).build();
    let mut subscription = client.listen(filter).await.unwrap();
    let followed = async || (0 < world.control("n1").n_calls("logs")).then_some(());
    eventually("the log is followed", followed).await;
    for round in ["before", "after"] {
        // A line may come before the follower listens; the one after it is heard.
        let writing = async {
            loop {
                world.control("n1").write_log(&container, LogStream::Stdout, round);
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let update = tokio::select! {
            it = next(&mut subscription) => it,
            () = writing => unreachable!("it goes on writing"),
        };
        let ServerNotification::ResourceUpdatedNotification(update) = update else {
            panic!("nothing else was asked for: {update:?}")
        };
        assert_eq!(update.params.uri, logs);
        assert!(read(&client, &logs).await.unwrap()["text"].as_str().unwrap().contains(round));
        // Stopped and started, it is another container life; it is followed again.
        client.answer("stop_instance", json!({"id": id})).await;
        client.answer("start_instance", json!({"id": id})).await;
        quiet(&mut subscription).await;
    }
}

/// Until nothing is said for a while.
async fn quiet(subscription: &mut Subscription) {
    let while_silent = std::time::Duration::from_millis(500);
    while tokio::time::timeout(while_silent, subscription.next()).await.is_ok() {}
}

/// A hundred changes at once are a few messages.
#[tokio::test(flavor = "multi_thread")]
async fn many_changes_are_told_together() {
    let world = World::with_nodes(1).await;
    let client = mcp::connect(&world, ADMIN, Way::Stream, Era::Modern).await;
    let filter = SubscriptionFilter::builder().resource_subscription("cluster://status").build();
    let mut subscription = client.listen(filter).await.unwrap();
    for _ in 0..100 {
        world.orch().events.publish(orch_core::event::Subject::Cluster);
    }
    next(&mut subscription).await;
    let nothing_more =
        tokio::time::timeout(std::time::Duration::from_millis(300), subscription.next());
    assert!(nothing_more.await.is_err(), "one message for all of them");
}
