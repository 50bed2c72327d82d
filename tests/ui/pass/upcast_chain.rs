//! Functions in any order and from any place, one for each old version.
use entity_runtime::prelude::*;

mod old {
    use super::*;

    #[derive(Serialize, Deserialize)]
    pub struct V2 {
        pub cents: u64,
    }

    pub fn from_v1(euros: u64) -> V2 {
        V2 { cents: euros * 100 }
    }
}

#[derive(Entity, Default, Serialize, Deserialize)]
#[entity(kind = "account", version = 3, upcast(2 => Self::from_v2, 1 => old::from_v1))]
struct Account {
    cents: u64,
    currency: String,
}

impl Account {
    fn from_v2(old: old::V2) -> Self {
        Self { cents: old.cents, currency: "EUR".to_owned() }
    }
}

fn main() {
    assert_eq!(<Account as Entity>::VERSION, 3);
}
