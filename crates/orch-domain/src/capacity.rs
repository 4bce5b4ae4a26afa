//! How large an instance can be right now, for launch forms and for models that size a request.

use schemars::JsonSchema;
use serde::Serialize;

use crate::resource::{Cpu, Memory, Resources};

/// The largest free CPU and memory of any one node, and the usual sizes up to them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Options {
    /// vCPU.
    pub max_cpu: Cpu,
    /// GiB.
    pub max_memory_gb: Memory,
    pub max_gpu: u32,
    /// vCPU.
    pub cpu_options: Vec<Cpu>,
    /// GiB.
    pub memory_options: Vec<Memory>,
}

impl Options {
    /// From what is free on each node that takes instances.
    pub fn of(free: impl Iterator<Item = Resources>) -> Options {
        let mut options = Options::default();
        for it in free {
            options.max_cpu = options.max_cpu.max(it.cpu);
            options.max_memory_gb = options.max_memory_gb.max(it.memory);
            options.max_gpu = options.max_gpu.max(it.gpu);
        }
        options.cpu_options =
            doublings(250, options.max_cpu.millis()).map(Cpu::from_millis).collect();
        options.memory_options =
            doublings(256, options.max_memory_gb.mib()).map(Memory::from_mib).collect();
        options
    }
}

fn doublings(first: u32, max: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(first), |it| it.checked_mul(2)).take_while(move |it| *it <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_double_up_to_the_largest_free() {
        let free =
            |cpu, gib: u32| Resources::new(Cpu::from_millis(cpu), Memory::from_mib(gib * 1024), 0);
        let it = Options::of([free(4000, 1), free(1000, 2)].into_iter());
        let json = serde_json::to_value(&it).unwrap();
        assert_eq!(json["cpu_options"], serde_json::json!([0.25, 0.5, 1, 2, 4]));
        assert_eq!(json["memory_options"], serde_json::json!([0.25, 0.5, 1, 2]));
        assert_eq!(json["max_memory_gb"], 2);
    }
}
