//! A server behind the gateway that is a shell script and a child process. What it offers and answers are files that a
//! test writes, what it was asked are files that a test reads.

use std::path::PathBuf;

use serde_json::{Value, json};

const SCRIPT: &str = r#"
dir=$1
echo $$ >> $dir/pids
if [ -e $dir/deaf ]; then trap '' TERM; sleep 300 & fi
if [ -e $dir/broken ]; then echo 'it broke' >&2; exit 3; fi
while IFS= read -r line; do
    rest=${line#*\"id\":}
    id=${rest%%,*}
    answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
    case $line in
        *'"method":"initialize"'*)
            while [ -e $dir/hold ]; do sleep 0.05; done
            answer '{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true},"prompts":{}},"serverInfo":{"name":"shell","version":"1"}}' ;;
        *'"method":"tools/list"'*)
            echo >> $dir/listed
            answer "$(cat $dir/tools.json)" ;;
        *'"method":"prompts/list"'*)
            answer '{"prompts":[{"name":"p"}]}' ;;
        *'"method":"tools/call"'*)
            printf '%s\n' "$line" >> $dir/calls
            case $line in
                *'"name":"slow"'*)
                    (
                        echo + >> $dir/turns
                        while [ ! -e $dir/go ]; do sleep 0.05; done
                        echo - >> $dir/turns
                        answer '{"content":[]}'
                    ) & ;;
                *'"name":"eat"'*)
                    food=$(head -c 60000000 /dev/zero | tr '\0' x)
                    answer '{"content":[]}' ;;
                *) answer "$(cat $dir/result.json)" ;;
            esac ;;
        *'"method":"prompts/get"'*) answer "$(cat $dir/result.json)" ;;
        *'"id":'*) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"unknown"}}\n' "$id" ;;
    esac
done
if [ -e $dir/deaf ]; then sleep 300; fi
"#;

pub(crate) struct Shell {
    dir: tempfile::TempDir,
}

impl Shell {
    /// With these tools, which answer a short text.
    pub(crate) fn offering(tools: &Value) -> Shell {
        let shell = Shell { dir: tempfile::tempdir().unwrap() };
        fs_err::write(shell.file("server"), SCRIPT).unwrap();
        shell.offer(tools);
        shell.answer(&json!({"content": [{"type": "text", "text": "fine"}]}));
        shell
    }

    /// As it stands in `mcp-config.json`.
    pub(crate) fn entry(&self) -> Value {
        json!({"command": "sh", "args": [self.file("server"), self.dir.path()]})
    }

    /// The same with more keys.
    pub(crate) fn entry_with(&self, more: &Value) -> Value {
        let mut entry = self.entry();
        entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// In one step, because it may be read meanwhile.
    fn write(&self, name: &str, value: &Value) {
        fs_err::write(self.file("new"), value.to_string()).unwrap();
        fs_err::rename(self.file("new"), self.file(name)).unwrap();
    }

    /// Nobody is told of it.
    pub(crate) fn offer(&self, tools: &Value) {
        self.write("tools.json", &json!({"tools": tools}));
    }

    /// And that the list holds for so many milliseconds.
    pub(crate) fn offer_for(&self, tools: &Value, ttl: u64) {
        self.write("tools.json", &json!({"tools": tools, "ttlMs": ttl}));
    }

    pub(crate) fn answer(&self, result: &Value) {
        self.write("result.json", result);
    }

    /// `hold`: it does not finish its handshake. `go`: slow calls are answered. `deaf`: it ignores requests to end, and
    /// so does what it starts. `broken`: it ends at once.
    pub(crate) fn set(&self, flag: &str, is_set: bool) {
        if is_set {
            fs_err::write(self.file(flag), "").unwrap();
        } else {
            fs_err::remove_file(self.file(flag)).unwrap();
        }
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs_err::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Of every time that it was started.
    pub(crate) fn pids(&self) -> Vec<i32> {
        self.lines("pids").iter().map(|it| it.parse().unwrap()).collect()
    }
}

/// Processes of a group, without those that only wait to be reaped.
pub(crate) fn n_of_group(group: i32) -> usize {
    let entries = fs_err::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|it| fs_err::read_to_string(it.path().join("stat")).ok());
    stats
        .filter(|it| {
            let (_, rest) = it.rsplit_once(") ").unwrap();
            let fields: Vec<&str> = rest.split(' ').collect();
            fields[0] != "Z" && fields[2] == group.to_string()
        })
        .count()
}
