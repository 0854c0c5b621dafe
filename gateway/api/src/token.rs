//! Bearer tokens of the API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a bearer of a token may do; each includes those before it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum TokenRole {
    /// Reads.
    Viewer,
    /// Also changes volumes, sessions and failovers.
    Operator,
    /// Also trust and tokens.
    Admin,
}

/// A token, without its secret.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct TokenInfo {
    /// Whose.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
}

/// All tokens.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct TokenList {
    /// They.
    pub items: Vec<TokenInfo>,
}

/// Makes a token.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Whose.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
}

/// A token with its secret, told once.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
pub struct TokenSecret {
    /// Whose.
    pub name: String,
    /// What it allows.
    pub role: TokenRole,
    /// The secret.
    pub token: String,
}
