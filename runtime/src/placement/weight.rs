//! How much of the shards a node is to have.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Highest weight of a node. The cost of a table grows with the square of all weights together; 100 steps tell a small
/// machine from a large one well enough.
pub const WEIGHT_MAX: u32 = 100;

/// A node's share of the shards, as against the weights of the others: from 1 to [`WEIGHT_MAX`]. Never 0: a node without
/// shards is one that is leaving, and then it is no member of the ring.
///
/// ```
/// use entity_runtime::placement::Weight;
///
/// assert_eq!("3".parse::<Weight>().unwrap().get(), 3);
/// assert!("0".parse::<Weight>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Weight(u32);

/// The number or text is no weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the weight of a node is a whole number from 1 to {WEIGHT_MAX}")]
pub struct WeightError;

impl Weight {
    /// This weight; `None` unless it is from 1 to [`WEIGHT_MAX`].
    pub fn new(weight: u32) -> Option<Self> {
        (1..=WEIGHT_MAX).contains(&weight).then_some(Self(weight))
    }

    /// As a number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    /// 1, so that nodes of which nothing is said have equal shares.
    fn default() -> Self {
        Self(1)
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Weight {
    type Err = WeightError;

    fn from_str(text: &str) -> Result<Self, WeightError> {
        text.parse::<u32>().ok().and_then(Self::new).ok_or(WeightError)
    }
}

impl TryFrom<u32> for Weight {
    type Error = WeightError;

    fn try_from(weight: u32) -> Result<Self, WeightError> {
        Self::new(weight).ok_or(WeightError)
    }
}

impl From<Weight> for u32 {
    fn from(weight: Weight) -> Self {
        weight.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_checked_wherever_it_comes_from() {
        for good in [1, 2, WEIGHT_MAX] {
            let weight = Weight::new(good).unwrap();
            assert_eq!(good.to_string().parse(), Ok(weight));
            let bytes = rmp_serde::to_vec(&weight).unwrap();
            assert_eq!(rmp_serde::from_slice::<Weight>(&bytes).unwrap(), weight);
        }
        for bad in [0, WEIGHT_MAX + 1, u32::MAX] {
            assert_eq!(Weight::new(bad), None);
            assert_eq!(bad.to_string().parse::<Weight>(), Err(WeightError));
            assert!(rmp_serde::from_slice::<Weight>(&rmp_serde::to_vec(&bad).unwrap()).is_err());
        }
        assert_eq!("-1".parse::<Weight>(), Err(WeightError));
    }
}
