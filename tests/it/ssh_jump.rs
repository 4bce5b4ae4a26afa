//! Machines that only others reach, and names that only the SSH configuration knows.

use orch_adapters::ssh::SshSettings;
use orch_domain::ErrorCode::{InvalidParameter, NodeUnreachable};
use serde_json::{Value, json};

use crate::harness::caller::ADMIN;
use crate::harness::cloud::Cloud;
use crate::harness::eventually;
use crate::harness::hosts::Hosts;
use crate::harness::image;

/// Host 1 as `outer`, hosts 2 and 3 as `inner` and `innermost` behind it.
fn configure(hosts: &Hosts, home: &std::path::Path) -> SshSettings {
    let text = format!(
        "Include conf.d/*\n\nHost inner innermost\n  ProxyJump outer\n  User root\n\nHost *\n  IdentityFile {}\n",
        hosts.key()
    );
    let names = ["outer", "inner", "innermost"];
    let names = names
        .iter()
        .enumerate()
        .map(|(i, name)| format!("Host {name}\n  HostName {}\n  Port 22\n", hosts.address(i + 1)));
    let folder = home.join(".ssh/conf.d");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("lab"), names.collect::<String>()).unwrap();
    fs_err::write(home.join(".ssh/config"), text).unwrap();
    SshSettings { home: Some(home.to_owned()), ..SshSettings::default() }
}

async fn becomes(cloud: &Cloud, id: &str, status: &str) -> Value {
    eventually(&format!("`{id}` {status}"), || async {
        let node = cloud.ok(ADMIN, "get_node", json!({"node_id": id})).await;
        (node["status"] == status).then_some(node)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_behind_a_jump_are_met_used_and_lost_like_others() {
    let Some(hosts) = Hosts::start(3).await else { return };
    hosts.hide(2);
    hosts.hide(3);
    let home = tempfile::tempdir().unwrap();
    let cloud = Cloud::watchful_with(configure(&hosts, home.path())).await;
    let register = |name: &str, ssh: Value| json!({"hostname": name, "address": name, "ssh": ssh});

    // It is true that nobody gets there directly.
    let direct = register("inner", json!({"jump": "none", "accept_host_key": true}));
    cloud.refused(ADMIN, "register_node", direct, NodeUnreachable).await;

    // Each key is asked for, the nearest first, and nobody logs in before.
    let refused =
        cloud.refused(ADMIN, "register_node", register("inner", json!({})), InvalidParameter);
    let refused = refused.await;
    assert_eq!(refused["parameter"], "ssh.accept_jump_host_key", "{refused}");
    assert_eq!(refused["host_key"]["fingerprint"], hosts.fingerprint(1), "{refused}");
    assert!(refused["host_key"]["place"].as_str().unwrap().contains(&hosts.address(1)));
    assert!(!hosts.sshd_log(1).contains("Accepted"), "{}", hosts.sshd_log(1));
    let outer = json!({"accept_jump_host_key": hosts.fingerprint(1)});
    let refused = cloud.refused(ADMIN, "register_node", register("inner", outer), InvalidParameter);
    let refused = refused.await;
    assert_eq!(refused["parameter"], "ssh.accept_host_key", "{refused}");
    assert_eq!(refused["host_key"]["fingerprint"], hosts.fingerprint(2), "{refused}");
    assert!(!hosts.sshd_log(2).contains("Accepted"), "{}", hosts.sshd_log(2));

    let keys = |host: usize| {
        json!({
            "accept_jump_host_key": hosts.fingerprint(1),
            "accept_host_key": hosts.fingerprint(host),
        })
    };
    let node = cloud.ok(ADMIN, "register_node", register("inner", keys(2))).await;
    assert_eq!((&node["status"], &node["address"]), (&json!("healthy"), &json!(hosts.address(2))));
    assert_eq!(node["ssh"]["host"], hosts.address(2), "{node}");
    assert_eq!(node["ssh"]["jumps"][0]["host"], hosts.address(1), "{node}");
    assert_eq!(node["ssh"]["jumps"][0]["host_key"]["fingerprint"], hosts.fingerprint(1));
    assert!(!node.to_string().contains("PRIVATE"), "{node}");
    let n_logins = |host: usize| hosts.sshd_log(host).matches("Accepted publickey").count();
    let before = n_logins(1);
    cloud.ok(ADMIN, "register_node", register("innermost", keys(3))).await;
    assert_eq!(cloud.n_jump_handshakes("inner"), cloud.n_jump_handshakes("innermost"));
    assert_eq!(n_logins(1), before, "one connection serves both: {}", hosts.sshd_log(1));

    let request = json!({
        "image": image::IMAGE, "node_id": "inner", "cpu": 0.1, "memory": 0.0625, "wait": true,
        "command": ["sleep", "3600"]
    });
    let instance = cloud.ok(ADMIN, "launch_instance", request).await;
    assert_eq!(instance["state"], "running", "{instance}");
    let run = json!({"id": instance["id"], "command": ["sh", "-c", "echo over there"]});
    let ran = cloud.ok(ADMIN, "exec_in_instance", run).await;
    assert!(ran.to_string().contains("over there"), "{ran}");
    assert_eq!(hosts.containers(2).await.len(), 1);

    // What is the matter with the jump is said of the jump, and of all behind it.
    hosts.sshd(1, "stop");
    for id in ["inner", "innermost"] {
        becomes(&cloud, id, "unreachable").await;
        let said = eventually("the reason", || async {
            let node = cloud.ok(ADMIN, "get_node", json!({"node_id": id})).await;
            let said = node["last_check"]["message"].as_str()?.to_owned();
            (node["last_check"]["trouble"] == "nothing-listens").then_some(said)
        })
        .await;
        assert!(said.contains("on the way to") && said.contains(&hosts.address(1)), "{said}");
    }
    hosts.sshd(1, "start");
    becomes(&cloud, "inner", "healthy").await;
    becomes(&cloud, "innermost", "healthy").await;

    // Somebody else in the jump's place gets nothing from us.
    let before = n_logins(1);
    hosts.sshd(1, "stop");
    hosts.change_host_key(1);
    hosts.sshd(1, "start");
    becomes(&cloud, "inner", "unreachable").await;
    let said = eventually("the alarm", || async {
        let node = cloud.ok(ADMIN, "get_node", json!({"node_id": "inner"})).await;
        let said = node["last_check"]["message"].as_str()?.to_owned();
        said.contains("ALARM").then_some(said)
    })
    .await;
    assert!(said.contains(&hosts.address(1)) && said.contains(&hosts.fingerprint(1)), "{said}");
    assert_eq!(n_logins(1), before, "{}", hosts.sshd_log(1));
    let accept = json!({"node_id": "inner", "ssh": {"accept_jump_host_key": hosts.fingerprint(1)}});
    cloud.ok(ADMIN, "update_node", accept).await;
    becomes(&cloud, "inner", "healthy").await;

    let terminate = json!({"id": instance["id"], "wait": true});
    cloud.ok(ADMIN, "terminate_instance", terminate).await;
    assert_eq!(hosts.containers(2).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_two_jumps_away_is_reached_and_known_hosts_counts_for_each() {
    let Some(hosts) = Hosts::start(3).await else { return };
    hosts.hide(2);
    hosts.hide(3);
    let home = tempfile::tempdir().unwrap();
    fs_err::create_dir(home.path().join(".ssh")).unwrap();
    let known = [1, 2].map(|it| format!("{} {}", hosts.address(it), hosts.public_key(it)));
    fs_err::write(home.path().join(".ssh/known_hosts"), known.concat()).unwrap();
    let settings = SshSettings { home: Some(home.path().to_owned()), ..SshSettings::default() };
    let cloud = Cloud::watchful_with(settings).await;
    let jump = format!("{},root@{}:22", hosts.address(1), hosts.address(2));
    let ssh = json!({"key": hosts.key(), "jump": jump, "accept_host_key": hosts.fingerprint(3)});
    let request = json!({"id": "far", "hostname": "far", "address": hosts.address(3), "ssh": ssh});
    let node = cloud.ok(ADMIN, "register_node", request).await;
    assert_eq!(node["status"], "healthy", "{node}");
    assert_eq!(node["ssh"]["jumps"].as_array().unwrap().len(), 2);

    // A jump that cannot get there says so.
    let ssh =
        json!({"key": hosts.key(), "jump": hosts.address(1), "port": 1, "accept_host_key": true});
    let request = json!({"id": "no", "hostname": "no", "address": hosts.address(3), "ssh": ssh});
    let refused = cloud.refused(ADMIN, "register_node", request, NodeUnreachable).await;
    let said = refused["message"].as_str().unwrap();
    assert!(said.contains("as seen from the jump") && said.contains(&hosts.address(1)), "{said}");
}
