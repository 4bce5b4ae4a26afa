//! Amounts of CPU, memory and GPU. Kept as integers, so that what was reserved is given back to the digit.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Virtual CPUs in thousandths. JSON: a number of vCPU such as `0.5` or `2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpu(u32);

/// Memory in MiB. JSON: a number of GiB such as `0.25` or `4`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(u32);

impl Cpu {
    pub const ZERO: Cpu = Cpu(0);

    pub const fn from_millis(millis: u32) -> Cpu {
        Cpu(millis)
    }

    pub fn millis(self) -> u32 {
        self.0
    }

    /// As Docker wants it: billionths of a CPU.
    pub fn nanos(self) -> i64 {
        i64::from(self.0) * 1_000_000
    }

    pub fn vcpu(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

impl Memory {
    pub const ZERO: Memory = Memory(0);

    pub const fn from_mib(mib: u32) -> Memory {
        Memory(mib)
    }

    /// Rounds down: what is not a whole MiB cannot be given out.
    pub fn from_bytes(bytes: u64) -> Memory {
        Memory(u32::try_from(bytes >> 20).unwrap_or(u32::MAX))
    }

    pub fn mib(self) -> u32 {
        self.0
    }

    pub fn bytes(self) -> i64 {
        i64::from(self.0) << 20
    }

    pub fn gib(self) -> f64 {
        f64::from(self.0) / 1024.0
    }
}

/// What an instance asks for or a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// vCPU.
    pub cpu: Cpu,
    /// GiB.
    pub memory: Memory,
    /// Whole GPUs.
    #[serde(default)]
    pub gpu: u32,
}

impl Resources {
    pub fn new(cpu: Cpu, memory: Memory, gpu: u32) -> Resources {
        Resources { cpu, memory, gpu }
    }

    pub fn fits_in(&self, free: &Resources) -> bool {
        self.cpu <= free.cpu && self.memory <= free.memory && self.gpu <= free.gpu
    }

    pub fn plus(&self, other: &Resources) -> Resources {
        Resources {
            cpu: Cpu(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Memory(self.memory.0.saturating_add(other.memory.0)),
            gpu: self.gpu.saturating_add(other.gpu),
        }
    }

    /// What is left; never below zero, as a node may shrink under its instances.
    pub fn minus(&self, other: &Resources) -> Resources {
        Resources {
            cpu: Cpu(self.cpu.0.saturating_sub(other.cpu.0)),
            memory: Memory(self.memory.0.saturating_sub(other.memory.0)),
            gpu: self.gpu.saturating_sub(other.gpu),
        }
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} vCPU", self.vcpu())
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            mib if mib.is_multiple_of(1024) => write!(f, "{} GiB", mib / 1024),
            mib @ 0..2048 => write!(f, "{mib} MiB"),
            // Rounded down: what is shown as free is there.
            mib => write!(f, "{}.{} GiB", mib / 1024, mib % 1024 * 10 / 1024),
        }
    }
}

/// Whole numbers are written without a fraction, so that `2` stays `2` on its way through.
fn number<S: Serializer>(value: f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 {
        serializer.serialize_u64(value as u64)
    } else {
        serializer.serialize_f64(value)
    }
}

impl Serialize for Cpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        number(self.vcpu(), serializer)
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        number(self.gib(), serializer)
    }
}

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cpu, D::Error> {
        let vcpu = f64::deserialize(deserializer)?;
        let millis = (vcpu * 1000.0).round();
        if !(0.0..=4_096_000.0).contains(&millis) {
            return Err(serde::de::Error::custom(format!(
                "{vcpu} is not a number of vCPU from 0 to 4096"
            )));
        }
        Ok(Cpu(millis as u32))
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Memory, D::Error> {
        let gib = f64::deserialize(deserializer)?;
        let mib = (gib * 1024.0).round();
        if !(0.0..=67_108_864.0).contains(&mib) {
            return Err(serde::de::Error::custom(format!(
                "{gib} is not a number of GiB from 0 to 65536"
            )));
        }
        Ok(Memory(mib as u32))
    }
}

impl JsonSchema for Cpu {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cpu".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        amount_schema(generator, 4096)
    }
}

impl JsonSchema for Memory {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Memory".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        amount_schema(generator, 65536)
    }
}

/// `max` holds for what is asked; an answer may be the sum over many nodes.
fn amount_schema(generator: &schemars::SchemaGenerator, max: u32) -> schemars::Schema {
    if generator.contract().is_serialize() {
        return schemars::json_schema!({"type": "number", "minimum": 0});
    }
    schemars::json_schema!({"type": "number", "minimum": 0, "maximum": max})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_vcpu_and_gib() {
        let it: Resources = serde_json::from_str(r#"{"cpu": 0.5, "memory": 4}"#).unwrap();
        assert_eq!(it, Resources::new(Cpu::from_millis(500), Memory::from_mib(4096), 0));
        assert_eq!(serde_json::to_string(&it).unwrap(), r#"{"cpu":0.5,"memory":4,"gpu":0}"#);
    }

    #[test]
    fn absurd_amounts_are_refused() {
        for bad in ["-1", "1e300", "4097", "null", "\"2\""] {
            assert!(serde_json::from_str::<Cpu>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_reads_in_the_unit_that_suits_it() {
        for (mib, text) in
            [(512, "512 MiB"), (2048, "2 GiB"), (24_105, "23.5 GiB"), (2047, "2047 MiB")]
        {
            assert_eq!(Memory(mib).to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn taking_and_giving_back_is_exact(a in 0u32..1_000_000, b in 0u32..1_000_000) {
            let (a, b) = (Resources::new(Cpu(a), Memory(a), a), Resources::new(Cpu(b), Memory(b), b));
            proptest::prop_assert_eq!(a.plus(&b).minus(&b), a);
        }
    }
}
