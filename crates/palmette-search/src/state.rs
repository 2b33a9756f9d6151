//! Saving and loading of strategies.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::SearchError;

/// A state as a value.
pub(crate) fn save<T: Serialize>(state: &T) -> Value {
    // Only maps with keys that are no text fail, and states have none.
    serde_json::to_value(state).unwrap_or(Value::Null)
}

/// A state from a value.
pub(crate) fn load<T: DeserializeOwned>(
    strategy: &'static str,
    state: &Value,
) -> Result<T, SearchError> {
    T::deserialize(state).map_err(|e| SearchError::BadState { strategy, problem: e.to_string() })
}
