//! What only the real engine can show: hardening, processes, terminals and connections.

use std::sync::Arc;
use std::time::Duration;

use bollard::query_parameters::InspectContainerOptions;
use futures::StreamExt;
use orch_adapters::docker::DockerEngine;
use orch_core::ports::engine::{ContainerState, Engine, EngineError, Terminal, TerminalSize};
use orch_domain::port::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::task::TaskTracker;

use super::subject::{Life, Outside, Subject};
use super::{command, run};
use crate::harness::{docker, eventually, within};

macro_rules! docker_only {
    ($($name:ident),* $(,)?) => {
        mod real {
            $(#[tokio::test]
            async fn $name() {
                if let Some(subject) = super::Subject::docker().await {
                    super::run(subject, super::$name).await;
                }
            })*
        }
    };
}

docker_only!(
    containers_are_hardened,
    a_server_that_changes_its_user_still_works,
    a_command_that_is_not_there_is_refused_at_the_start,
    a_command_that_ends_at_once_did_start,
    an_image_without_a_command_needs_one,
    too_much_cpu_is_refused_with_the_reason,
    gpus_are_asked_for_by_index,
    commands_are_ended_with_their_children,
    a_terminal_talks_resizes_and_ends_when_dropped,
    an_engine_over_tcp,
    an_engine_that_comes_back,
);

/// There is no GPU here, which an engine minds at the start only.
async fn gpus_are_asked_for_by_index(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    spec.resources.gpu = 2;
    spec.gpus = vec![1, 3];
    subject.engine.create(&spec).await.unwrap();
    let docker = subject.raw_docker();
    let requests = async |name: &str| {
        let seen = docker.inspect_container(name, None::<InspectContainerOptions>).await.unwrap();
        seen.host_config.unwrap().device_requests.unwrap_or_default()
    };
    let asked = requests(&spec.name).await;
    let [request] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(request.device_ids, Some(vec!["1".to_owned(), "3".to_owned()]));
    assert_eq!(request.capabilities, Some(vec![vec!["gpu".to_owned()]]));
    assert_eq!(request.count.unwrap_or_default(), 0, "all of them would be -1");
    let err = subject.engine.start(&spec.name).await.unwrap_err();
    assert!(err.to_string().contains("NVIDIA container toolkit is missing"), "{err}");

    let without = subject.spec(Life::Forever);
    subject.engine.create(&without).await.unwrap();
    assert_eq!(requests(&without.name).await, []);
}

async fn containers_are_hardened(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    subject.publish(&mut spec, &[subject.free_port()]);
    spec.ports.push(orch_domain::port::PortBinding {
        container_port: 53,
        host_port: subject.free_port(),
        protocol: Protocol::Udp,
    });
    // A user's label that would make it somebody else's.
    spec.user_labels.insert("mcp-orch.owner".to_owned(), "eve".to_owned());
    subject.engine.create(&spec).await.unwrap();
    subject.engine.start(&spec.name).await.unwrap();
    let seen = subject
        .raw_docker()
        .inspect_container(&spec.name, None::<InspectContainerOptions>)
        .await
        .unwrap();
    let host = seen.host_config.unwrap();
    let dropped = host.cap_drop.unwrap();
    for capability in ["NET_RAW", "MKNOD", "AUDIT_WRITE", "SETFCAP", "SETPCAP", "SYS_CHROOT"] {
        assert!(dropped.iter().any(|it| it.ends_with(capability)), "{dropped:?}");
    }
    assert_eq!(host.cap_add.unwrap_or_default(), Vec::<String>::new());
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges".to_owned()]));
    assert_eq!(host.pids_limit, Some(512));
    assert_eq!(host.memory, Some(32 << 20));
    assert_eq!(host.memory_swap, Some(32 << 20));
    assert_eq!(host.nano_cpus, Some(500_000_000));
    assert_eq!(host.init, Some(true));
    assert_eq!(host.binds.unwrap_or_default(), Vec::<String>::new());
    assert!(host.mounts.unwrap_or_default().is_empty());
    assert!(host.devices.unwrap_or_default().is_empty());
    for mode in [host.pid_mode, host.ipc_mode, host.network_mode] {
        assert_ne!(mode.as_deref(), Some("host"));
    }
    let restart = host.restart_policy.and_then(|it| it.name).map(|it| it.to_string());
    assert!(matches!(restart.as_deref(), None | Some("" | "no")), "{restart:?}");
    let log = host.log_config.unwrap();
    assert_eq!(log.typ.as_deref(), Some("json-file"));
    let log = log.config.unwrap();
    assert_eq!((log["max-size"].as_str(), log["max-file"].as_str()), ("10m", "3"));
    for binding in host.port_bindings.unwrap().into_values().flatten().flatten() {
        assert_eq!(binding.host_ip.as_deref(), Some("127.0.0.1"));
    }
    let labels = seen.config.unwrap().labels.unwrap();
    assert_eq!((labels["mcp-orch.owner"].as_str(), labels["team"].as_str()), ("ann", "web"));

    // What the kernel says, not only what was asked for.
    let out = subject.engine.exec(&spec.name, command(&["cat", "/proc/1/status"])).await.unwrap();
    let status = String::from_utf8(out.stdout).unwrap();
    let field = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("NoNewPrivs:"), "1");
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10.
    assert_eq!(u64::from_str_radix(field("CapBnd:"), 16).unwrap(), 0b100_1111_1011);
}

/// As nginx or redis start: root binds a low port, hands over its files and becomes another user.
async fn a_server_that_changes_its_user_still_works(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    let port = subject.free_port();
    subject.publish(&mut spec, &[port]);
    spec.ports[0].container_port = 80;
    let script = "touch /tmp/hello && chown web /tmp/hello && \
                  exec su web -s /bin/sh -c 'echo $(id -u) >/tmp/hello; exec httpd -f -p 80 -h /tmp'";
    spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    subject.engine.create(&spec).await.unwrap();
    subject.engine.start(&spec.name).await.unwrap();
    let answer = eventually("the server answers", || async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.contains("200 OK").then_some(answer)
    })
    .await;
    assert!(answer.ends_with("101\n"), "{answer}");
}

async fn a_command_that_is_not_there_is_refused_at_the_start(subject: Subject) {
    // The init process tries the command after the engine has answered the start, so once says little.
    for (command, why) in [
        (&["/bin/no-such-program"][..], "No such file"),
        (&["no-such-program", "-x"], "No such file"),
        (&["/etc"], "Permission denied"),
    ]
    .repeat(3)
    {
        let mut spec = subject.spec(Life::Forever);
        spec.command = command.iter().map(|it| (*it).to_owned()).collect();
        subject.engine.create(&spec).await.unwrap();
        match subject.engine.start(&spec.name).await {
            Err(EngineError::InvalidCommand { message }) => {
                assert!(message.contains(command[0]) && message.contains(why), "{message}");
            }
            other => panic!("{command:?}: {other:?}"),
        }
    }
}

/// Exit code 127 of a shell is not the engine's: its command was there and ran.
async fn a_command_that_ends_at_once_did_start(subject: Subject) {
    for (script, code) in [("exit 127", 127), ("no-such-program", 127), ("exit 0", 0)] {
        let mut spec = subject.spec(Life::Forever);
        spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        subject.engine.create(&spec).await.unwrap();
        subject.engine.start(&spec.name).await.unwrap();
        let (out_of_memory, error) = (false, String::new());
        let ended = ContainerState::Exited { exit_code: code, out_of_memory, error };
        subject.until_it_is(&spec.name, &ended).await;
    }
}

/// The test image is imported, so it has none.
async fn an_image_without_a_command_needs_one(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    spec.command.clear();
    match subject.engine.create(&spec).await {
        Err(EngineError::InvalidCommand { message }) => {
            assert!(message.contains("`command`"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

async fn too_much_cpu_is_refused_with_the_reason(subject: Subject) {
    let mut spec = subject.spec(Life::Forever);
    spec.resources.cpu = orch_domain::resource::Cpu::from_millis(4_000_000);
    match subject.engine.create(&spec).await.unwrap_err() {
        EngineError::Refused { message } => assert!(message.contains("CPUs"), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(subject.state(&spec.name).await, None);
}

async fn commands_are_ended_with_their_children(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let mut request = command(&["sh", "-c", "echo started; sleep 4321 & sleep 1234"]);
    request.timeout = Duration::from_secs(1);
    let out = subject.engine.exec(&spec.name, request).await.unwrap();
    assert_eq!((out.exit_code, out.stdout.as_slice()), (None, b"started\n".as_slice()));
    let processes = processes(&subject, &spec.name).await;
    assert!(!processes.contains("4321") && !processes.contains("1234"), "{processes}");
    assert!(processes.contains("sleep 3600"), "{processes}");
}

async fn a_terminal_talks_resizes_and_ends_when_dropped(subject: Subject) {
    let spec = subject.running(Life::Forever).await;
    let terminals = subject.engine.terminals().unwrap();
    let size = TerminalSize { columns: 100, rows: 40 };
    let shell = vec!["sh".to_owned()];
    let mut terminal = terminals.open(&spec.name, shell, size).await.unwrap();
    terminal.input.write_all(b"printf '\\001\\377\\377'; echo so''und\n").await.unwrap();
    until_output(&mut terminal, "sound").await;
    (terminal.resize)(TerminalSize { columns: 120, rows: 50 }).await.unwrap();
    terminal.input.write_all(b"exec sleep 7654\n").await.unwrap();
    eventually("the command runs", || async {
        processes(&subject, &spec.name).await.contains("sleep 7654").then_some(())
    })
    .await;
    drop(terminal);
    eventually("the session ended", || async {
        (!processes(&subject, &spec.name).await.contains("sleep 7654")).then_some(())
    })
    .await;

    let shell = vec!["sh".to_owned(), "-c".to_owned(), "echo bye".to_owned()];
    let mut terminal = terminals.open(&spec.name, shell, size).await.unwrap();
    until_output(&mut terminal, "bye").await;
    let rest = within("the end", terminal.output.collect::<Vec<_>>()).await;
    assert!(rest.iter().all(Result::is_ok), "{rest:?}");
    subject.engine.stop(&spec.name, Duration::from_secs(5)).await.unwrap();
    let err = terminals.open(&spec.name, vec!["sh".to_owned()], size).await.map(|_| ());
    assert!(matches!(err, Err(EngineError::NotRunning { .. })), "{err:?}");
}

async fn an_engine_over_tcp(subject: Subject) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    let relay = tokio_util::task::AbortOnDropHandle::new(tracker().spawn(relay(listener)));
    let engine: Arc<dyn Engine> = Arc::new(DockerEngine::new(&endpoint, tracker()).unwrap());
    assert!(engine.describe().await.unwrap().version.starts_with("docker"));
    let over_tcp = Subject::new(engine, Outside::Docker(subject.raw_docker().clone()));
    run(over_tcp.clone(), |it| async move {
        let spec = it.running(Life::Forever).await;
        let out = it.engine.exec(&spec.name, command(&["echo", "hello"])).await.unwrap();
        assert_eq!(out.stdout, b"hello\n");
        let size = TerminalSize { columns: 80, rows: 24 };
        let shell = vec!["sh".to_owned(), "-c".to_owned(), "echo hello".to_owned()];
        let terminals = it.engine.terminals().unwrap();
        let mut terminal = terminals.open(&spec.name, shell, size).await.unwrap();
        until_output(&mut terminal, "hello").await;
    })
    .await;
    drop(relay);
    let err = over_tcp.engine.describe().await.unwrap_err();
    assert!(matches!(err, EngineError::Unreachable { .. }), "{err:?}");
    assert!(!err.to_string().contains("127.0.0.1"), "{err}");
}

async fn an_engine_that_comes_back(_: Subject) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let endpoint = format!("unix://{}", socket.display());
    let engine = DockerEngine::new(&endpoint, tracker()).unwrap();
    assert!(matches!(engine.describe().await, Err(EngineError::Unreachable { .. })));
    std::os::unix::fs::symlink(docker::SOCKET, &socket).unwrap();
    engine.describe().await.unwrap();
    fs_err::remove_file(&socket).unwrap();
    assert!(matches!(engine.describe().await, Err(EngineError::Unreachable { .. })));
    std::os::unix::fs::symlink(docker::SOCKET, &socket).unwrap();
    engine.describe().await.unwrap();
}

fn tracker() -> TaskTracker {
    TaskTracker::new()
}

/// What `tcp://` reaches is the same engine.
async fn relay(listener: TcpListener) {
    let tasks = TaskTracker::new();
    while let Ok((mut outer, _)) = listener.accept().await {
        tasks.spawn(async move {
            let mut inner = UnixStream::connect(docker::SOCKET).await.unwrap();
            // Ends with an error when either side is dropped.
            tokio::io::copy_bidirectional(&mut outer, &mut inner).await.ok();
        });
    }
}

async fn processes(subject: &Subject, name: &str) -> String {
    let out = subject.engine.exec(name, command(&["ps", "-o", "args"])).await.unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

async fn until_output(terminal: &mut Terminal, wanted: &str) {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let bytes = within(&format!("`{wanted}` after {seen:?}"), terminal.output.next()).await;
        seen.push_str(&String::from_utf8_lossy(&bytes.unwrap().unwrap()));
    }
}
