//! The figures of a machine, read from what its kernel and its programs print.

use std::time::Duration;

use orch_domain::metrics::{CpuReading, GpuMetrics, Sample};
use orch_domain::text;

/// For a machine to print all of it; less than whoever asks will wait, so that a part is better than nothing.
pub(super) const PATIENCE: Duration = Duration::from_millis(2500);

/// More than any machine has.
const MAX_GPUS: usize = 64;
const MAX_NAME: usize = 60;

#[derive(Default)]
pub(super) struct Figures {
    pub(super) sample: Sample,
}

impl Figures {
    /// Reads the answer of the script. Not whole: what came last may be cut off and does not count.
    pub(super) fn read(&mut self, answer: &str, is_whole: bool) {
        for (heading, body) in parts(answer) {
            match heading {
                "@stat" => self.stat(body),
                "@load" => self.load(body),
                "@memory" => self.memory(body),
                "@disk" => self.disk(body),
                // Only a list that came to its end says how many there are.
                "@gpus" => {
                    let list = body.strip_suffix("@end\n").filter(|_| is_whole);
                    self.sample.gpus = list.map(|it| gpus(it.lines()));
                }
                _ => {}
            }
        }
    }

    /// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`: the guests are in user and nice already.
    pub(super) fn stat(&mut self, text: &str) {
        let Some(line) = text.lines().next().and_then(|it| it.strip_prefix("cpu ")) else { return };
        let times: Option<Vec<u64>> =
            line.split_whitespace().take(8).map(|it| it.parse().ok()).collect();
        let Some(times) = times.filter(|it| 4 <= it.len()) else { return };
        let sum = |it: &[u64]| it.iter().fold(0u64, |sum, it| sum.saturating_add(*it));
        let total = sum(&times);
        let idle = sum(&times[3..times.len().min(5)]);
        self.sample.cpu = Some(CpuReading::Counted { busy: total.saturating_sub(idle), total });
    }

    pub(super) fn load(&mut self, text: &str) {
        let mut words = text.split_whitespace().map(|it| it.parse().ok().filter(is_plain));
        if let (Some(Some(a)), Some(Some(b)), Some(Some(c))) =
            (words.next(), words.next(), words.next())
        {
            self.sample.load_average = Some([a, b, c]);
        }
    }

    pub(super) fn memory(&mut self, text: &str) {
        let field = |name: &str| {
            let line = text.lines().find_map(|it| it.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        if let (Some(total), Some(available)) = (field("MemTotal:"), field("MemAvailable:")) {
            self.sample.memory_total_bytes = Some(total);
            self.sample.memory_used_bytes = Some(total.saturating_sub(available));
        }
    }

    /// `Filesystem 1024-blocks Used Available Capacity Mounted on`, and a line of figures.
    fn disk(&mut self, text: &str) {
        let Some(line) = text.lines().nth(1) else { return };
        // The name of the file system may have blanks in it; the figures are before the first percentage.
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(at) = words.iter().position(|it| it.ends_with('%')).filter(|it| 3 < *it) else {
            return;
        };
        let bytes = |it: &str| it.parse::<u64>().ok()?.checked_mul(1024);
        if let (Some(total), Some(used)) = (bytes(words[at - 3]), bytes(words[at - 2])) {
            self.sample.disk_total_bytes = Some(total);
            self.sample.disk_used_bytes = Some(used.min(total));
        }
    }
}

const HEADINGS: [&str; 5] = ["@stat\n", "@load\n", "@memory\n", "@disk\n", "@gpus\n"];

/// Each heading, in the order of the script, with what is under it.
fn parts(answer: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = answer;
    HEADINGS.iter().enumerate().filter_map(move |(at, heading)| {
        let body = rest.strip_prefix(heading)?;
        // Not there when the answer was cut off.
        let end = HEADINGS.get(at + 1).and_then(|next| body.find(&format!("\n{next}")));
        let end = end.map_or(body.len(), |it| it + 1);
        let end =
            if HEADINGS.get(at + 1).is_some_and(|next| body.starts_with(next)) { 0 } else { end };
        rest = &body[end..];
        Some((heading.trim_end(), &body[..end]))
    })
}

/// `0, NVIDIA A100-SXM4-40GB, 37, 1024, 40960`: a share in percent and sizes in MiB, or `[N/A]`. By index, each once.
pub(super) fn gpus<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<GpuMetrics> {
    let mut gpus: Vec<GpuMetrics> = Vec::new();
    for line in lines {
        // The name is the only field that could have a comma in it.
        let Some((index, rest)) = line.split_once(',') else { continue };
        let Ok(index) = index.trim().parse::<u32>() else { continue };
        let mut fields = rest.rsplitn(4, ',');
        let mut number = || fields.next().map(|it| it.trim().parse::<u64>().ok());
        let (Some(total), Some(used), Some(busy)) = (number(), number(), number()) else {
            continue;
        };
        let Some(name) = fields.next() else { continue };
        if MAX_GPUS <= gpus.len() || gpus.iter().any(|it| it.index == index) {
            continue;
        }
        let bytes = |mib: Option<u64>| mib.and_then(|it| it.checked_mul(1 << 20));
        gpus.push(GpuMetrics {
            index,
            name: text::excerpt(&text::sanitize(name.trim()), MAX_NAME),
            used: busy.map(|it| (it as f64 / 100.0).min(1.0)),
            memory_used_bytes: bytes(used),
            memory_total_bytes: bytes(total),
        });
    }
    gpus.sort_by_key(|it| it.index);
    gpus
}

fn is_plain(it: &f64) -> bool {
    it.is_finite() && 0.0 <= *it
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "@stat\ncpu  100 0 50 800 50 0 0 0 0 0\n@load\n0.50 1.25 2.00 1/234 5678\n@memory\n\
        MemTotal:       16000 kB\nMemAvailable:    4000 kB\n@disk\nFilesystem 1024-blocks Used Available Capacity Mounted on\n\
        /dev/my disk 1000 400 600 40% /var/lib/docker\n@gpus\n1, NVIDIA T4, 7, 5, 15360\n0, NVIDIA A100, 40GB, [N/A], 1024, 40960\n@end\n";

    fn read(answer: &str, is_whole: bool) -> Sample {
        let mut figures = Figures::default();
        figures.read(answer, is_whole);
        figures.sample
    }

    #[test]
    fn what_a_machine_prints_is_read() {
        let it = read(ANSWER, true);
        assert_eq!(it.cpu, Some(CpuReading::Counted { busy: 150, total: 1000 }));
        assert_eq!(it.load_average, Some([0.5, 1.25, 2.0]));
        assert_eq!(it.memory_total_bytes, Some(16_000 << 10));
        assert_eq!(it.memory_used_bytes, Some(12_000 << 10));
        assert_eq!((it.disk_used_bytes, it.disk_total_bytes), (Some(400 << 10), Some(1000 << 10)));
        let gpus = it.gpus.unwrap();
        assert_eq!(gpus.iter().map(|it| it.index).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((gpus[0].name.as_str(), gpus[0].used), ("NVIDIA A100, 40GB", None));
        assert_eq!((gpus[1].used, gpus[1].memory_total_bytes), (Some(0.07), Some(15_360 << 20)));
    }

    #[test]
    fn a_list_of_gpus_that_was_cut_off_says_nothing_of_their_number() {
        let cut = ANSWER.trim_end_matches("@end\n");
        for (answer, is_whole) in [(cut, true), (ANSWER, false)] {
            let it = read(answer, is_whole);
            assert_eq!(it.gpus, None);
            assert_eq!(it.load_average, Some([0.5, 1.25, 2.0]), "the rest is known");
        }
        assert_eq!(read("@gpus\n@end\n", true).gpus, Some(vec![]), "no program, no GPUs");
        assert_eq!(read("", true), Sample::default());
    }

    #[test]
    fn the_words_of_a_machine_are_bounded_and_harmless() {
        let many: String = (0..500).map(|it| format!("{it}, x, 1, 1, 1\n")).collect();
        assert_eq!(gpus(many.lines()).len(), MAX_GPUS);
        let twice = gpus("0, a, 1, 1, 1\n0, b, 1, 1, 1".lines());
        assert_eq!(twice.len(), 1);
        let long = format!("0, \u{1b}[31m{}, 1, 1, 1", "x".repeat(9999));
        let name = gpus(long.lines()).remove(0).name;
        assert!(name.chars().count() <= MAX_NAME + 1 && !name.contains('\u{1b}'), "{name}");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_a_machine_prints_is_a_panic(answer in "(@[a-z]{0,6}\n|cpu |[0-9]{0,25}[ ,.%kB\n]|MemTotal:|.){0,60}", is_whole: bool) {
            let it = read(&answer, is_whole);
            proptest::prop_assert!(it.load_average.is_none_or(|it| it.iter().all(is_plain)));
        }
    }
}
