//! A small image made on the spot: no registry is needed, and every applet the tests use is there.

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptionsBuilder, TagImageOptionsBuilder};
use bytes::Bytes;
use futures::TryStreamExt;

pub(crate) const NAME: &str = "mcp-orch-test";
pub(crate) const IMAGE: &str = "mcp-orch-test:latest";
/// Raised when the content changes, so that an image of an older run is not used.
const CONTENT: &str = "content-1";

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 22] = [
    "cat", "chown", "echo", "env", "false", "grep", "head", "httpd", "id", "kill", "ls", "nc",
    "printf", "ps", "sh", "sleep", "su", "tail", "touch", "true", "wget", "yes",
];

/// Imports the image unless this content is there already.
pub(crate) async fn ensure(docker: &Docker) {
    // One process at a time; the others find it done.
    let lock = std::fs::File::create(std::env::temp_dir().join("mcp-orch-test-image.lock"))
        .expect("the folder for temporary files is writable");
    lock.lock().expect("a file of our own can be locked");
    if docker.inspect_image(&format!("{NAME}:{CONTENT}")).await.is_ok()
        && docker.inspect_image(IMAGE).await.is_ok()
    {
        return;
    }
    let tar = Bytes::from(root_file_system());
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(NAME).tag(CONTENT).build();
    docker
        .create_image(Some(options), Some(bollard::body_full(tar)), None)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
        .expect("the engine imports an image");
    let latest = TagImageOptionsBuilder::new().repo(NAME).tag("latest").build();
    docker
        .tag_image(&format!("{NAME}:{CONTENT}"), Some(latest))
        .await
        .expect("the engine names an image");
}

pub(crate) fn root_file_system() -> Vec<u8> {
    root_file_system_with("etc/hostname", b"test\n")
}

/// The same with one more file.
pub(crate) fn root_file_system_with(path: &str, content: &[u8]) -> Vec<u8> {
    let busybox = fs_err::read(BUSYBOX).expect("busybox is there: install `busybox-static`");
    let is_dynamic = busybox.windows(13).any(|it| it == b"/lib64/ld-lin" || it == b"/lib/ld-linux");
    assert!(!is_dynamic, "{BUSYBOX} needs libraries: install `busybox-static`");
    let mut tar = tar::Builder::new(Vec::new());
    for (path, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
    ] {
        let mut header = header(tar::EntryType::Directory, mode, 0);
        tar.append_data(&mut header, path, std::io::empty()).expect("writing to memory");
    }
    let mut file = |path: &str, mode: u32, content: &[u8]| {
        let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
        tar.append_data(&mut header, path, content).expect("writing to memory");
    };
    file("bin/busybox", 0o755, &busybox);
    file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nweb:x:101:101:web:/:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\nweb:x:101:\n");
    file(path, 0o644, content);
    for applet in APPLETS {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .expect("writing to memory");
    }
    tar.into_inner().expect("writing to memory")
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}
