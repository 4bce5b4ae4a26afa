//! Results that were too large to pass on whole, for whoever they were meant for to read the rest of.
//!
//! Kept for an hour, and no more than so many bytes together: the oldest go first. On the disk where there is a data
//! directory, so that they cost no memory and outlive a restart.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;
use orch_domain::time::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::disk::{self, Durability};

/// Milliseconds.
const KEPT_FOR: i64 = 60 * 60 * 1000;
/// Bytes of all together; one that alone is larger is not kept.
const KEPT: u64 = 512 * 1024 * 1024;
pub const SCHEME: &str = "result://";
const VERSION: u32 = 1;

pub struct Results {
    dir: Option<PathBuf>,
    kept: u64,
    /// Invariant: has every result that is kept, by its id; `size` is the sum of theirs.
    index: Mutex<Index>,
}

#[derive(Default)]
struct Index {
    results: BTreeMap<String, Kept>,
    size: u64,
}

struct Kept {
    about: AboutV1,
    /// None: it is in its file.
    body: Option<Bytes>,
}

/// The first line of a file; the rest of it is the result.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct AboutV1 {
    version: u32,
    owner: String,
    kept_at: i64,
    media_type: String,
    size: u64,
}

/// A part of a kept result.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// `text/plain`, or `application/json` for a result with more than one text in it.
    pub media_type: String,
    pub offset: u64,
    pub text: String,
    /// Where the next part begins. None: this was the last.
    pub next_offset: Option<u64>,
    pub size: u64,
}

impl Results {
    pub fn open(dir: Option<PathBuf>) -> Results {
        let results = Results { dir, kept: KEPT, index: Mutex::default() };
        if let Some(dir) = &results.dir {
            let mut index = results.index.lock();
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match read_about(&entry.path()) {
                    Some((id, about)) => {
                        index.size += about.size;
                        index.results.insert(id, Kept { about, body: None });
                    }
                    // Begun and never finished, or of another version.
                    None => disk::remove(&entry.path()),
                }
            }
        }
        results
    }

    /// Keeps `body` for `owner`, and answers its id. Whoever is told of it may read it.
    pub fn keep(
        &self,
        owner: &str,
        media_type: &str,
        body: Bytes,
        now: Timestamp,
    ) -> io::Result<String> {
        let size = body.len() as u64;
        if self.kept < size {
            return Err(io::Error::other(format!("{size} bytes are more than are ever kept")));
        }
        let id = id()?;
        let about = AboutV1 {
            version: VERSION,
            owner: owner.to_owned(),
            kept_at: now.as_millis(),
            media_type: media_type.to_owned(),
            size,
        };
        let mut kept = Kept { about, body: Some(body) };
        if let Some(dir) = &self.dir {
            let mut bytes = serde_json::to_vec(&kept.about)?;
            bytes.push(b'\n');
            bytes.extend_from_slice(&kept.body.take().unwrap_or_default());
            disk::replace(&dir.join(format!("{id}.result")), &bytes, Durability::Process)?;
        }
        let mut index = self.index.lock();
        index.size += size;
        index.results.insert(id.clone(), kept);
        self.drop_old(&mut index, now);
        Ok(id)
    }

    /// To be called now and then.
    pub fn expire(&self, now: Timestamp) {
        self.drop_old(&mut self.index.lock(), now);
    }

    fn drop_old(&self, index: &mut Index, now: Timestamp) {
        loop {
            let oldest = index.results.iter().min_by_key(|(_, it)| it.about.kept_at);
            let Some((id, it)) = oldest else { return };
            let is_old = KEPT_FOR < now.as_millis() - it.about.kept_at;
            if !is_old && index.size <= self.kept {
                return;
            }
            let id = id.clone();
            if let Some(it) = index.results.remove(&id) {
                index.size -= it.about.size;
            }
            if let Some(dir) = &self.dir {
                disk::remove(&dir.join(format!("{id}.result")));
            }
        }
    }

    /// None: there is no such result, or it is another's.
    pub fn part(
        &self,
        owner: &str,
        id: &str,
        offset: u64,
        limit: usize,
        now: Timestamp,
    ) -> io::Result<Option<Part>> {
        let (about, body) = {
            let mut index = self.index.lock();
            self.drop_old(&mut index, now);
            match index.results.get(id) {
                Some(it) if it.about.owner == owner => (it.about.clone(), it.body.clone()),
                _ => return Ok(None),
            }
        };
        let offset = offset.min(about.size);
        let mut bytes = match (&body, &self.dir) {
            (Some(body), _) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(body.len());
                body[start..body.len().min(start.saturating_add(limit))].to_vec()
            }
            (None, Some(dir)) => {
                let mut file = fs_err::File::open(dir.join(format!("{id}.result")))?;
                let total = file.metadata()?.len();
                file.seek(SeekFrom::Start(total - about.size + offset))?;
                let mut bytes = Vec::new();
                file.take(limit as u64).read_to_end(&mut bytes)?;
                bytes
            }
            (None, None) => return Ok(None),
        };
        // Both ends may be inside a character: the first belongs to the part before, the last to the next.
        let start = bytes.iter().take_while(|it| (0x80..0xc0).contains(*it)).count();
        bytes.drain(..start);
        let whole = match std::str::from_utf8(&bytes) {
            Ok(it) => it.len(),
            Err(err) => err.valid_up_to(),
        };
        bytes.truncate(whole);
        let text = String::from_utf8(bytes).map_err(io::Error::other)?;
        let offset = offset + start as u64;
        let end = offset + text.len() as u64;
        Ok(Some(Part {
            media_type: about.media_type,
            offset,
            text,
            next_offset: (end < about.size).then_some(end),
            size: about.size,
        }))
    }
}

fn read_about(path: &std::path::Path) -> Option<(String, AboutV1)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".result")?;
    let mut file = std::io::BufReader::new(fs_err::File::open(path).ok()?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut file, &mut line).ok()?;
    let about: AboutV1 = serde_json::from_str(&line).ok()?;
    let is_whole = file.get_ref().metadata().ok()?.len() == line.len() as u64 + about.size;
    (about.version == VERSION && is_whole).then(|| (name.to_owned(), about))
}

/// Not to be guessed, although it would not help: whose it is, is looked at too.
fn id() -> io::Result<String> {
    let mut bytes = [0u8; 12];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("r-{}", super::pin::hex(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000_000)
    }

    fn read_all(results: &Results, id: &str, limit: usize) -> String {
        let (mut text, mut offset) = (String::new(), 0);
        loop {
            let part = results.part("ann", id, offset, limit, now()).unwrap().unwrap();
            assert_eq!(part.offset, offset);
            text.push_str(&part.text);
            match part.next_offset {
                Some(it) => offset = it,
                None => return text,
            }
        }
    }

    #[test]
    fn parts_make_the_whole_for_the_one_it_belongs_to_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let text = "grüße, 世界! ".repeat(1000);
        for dir in [None, Some(dir.path().join("results"))] {
            let results = Results::open(dir.clone());
            let id = results.keep("ann", "text/plain", text.clone().into(), now()).unwrap();
            for limit in [4, 5, 7, 1000, 1 << 20] {
                assert_eq!(read_all(&results, &id, limit), text);
            }
            assert_eq!(results.part("bob", &id, 0, 10, now()).unwrap(), None);
            assert_eq!(results.part("ann", "r-other", 0, 10, now()).unwrap(), None);
            if let Some(dir) = &dir {
                fs_err::write(dir.join("r-torn.result"), "{").unwrap();
                assert_eq!(read_all(&Results::open(Some(dir.clone())), &id, 64), text);
                assert!(!dir.join("r-torn.result").exists());
            }
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_their_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let results = Results { kept: 100, ..Results::open(Some(dir.path().to_owned())) };
        let n_files = || fs_err::read_dir(dir.path()).unwrap().count();
        let at = |it: i64| Timestamp::from_millis(it);
        let keep = |when: i64| results.keep("ann", "text/plain", vec![b'x'; 40].into(), at(when));
        let ids: Vec<String> = (1..=3).map(|it| keep(it).unwrap()).collect();
        assert!(results.part("ann", &ids[0], 0, 9, at(3)).unwrap().is_none());
        assert!(results.part("ann", &ids[1], 0, 9, at(3)).unwrap().is_some());
        assert_eq!(n_files(), 2);
        results.expire(at(KEPT_FOR + 3));
        assert!(results.part("ann", &ids[1], 0, 9, at(3)).unwrap().is_none());
        assert_eq!(n_files(), 1);
        assert!(results.keep("ann", "text/plain", vec![b'x'; 101].into(), at(4)).is_err());
    }
}
