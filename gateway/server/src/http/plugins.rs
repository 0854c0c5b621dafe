//! The calls of `/api/v1/plugins`: installed, granted, configured, asked and removed.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use serde::Deserialize;

use super::auth::Caller;
use super::{Body, Failure, Shared};

/// The header of a component's signature, in hexadecimal.
const SIGNATURE: &str = "x-twinspan-signature";

/// All plugins
#[utoipa::path(get, path = "/api/v1/plugins", tag = "plugins", operation_id = "list_plugins",
    responses((status = 200, body = api::PluginList), (status = "default", body = api::Problem)))]
pub(super) async fn list(State(gateway): Shared) -> Result<Json<api::PluginList>, Failure> {
    Ok(Json(gateway.show_plugins()?))
}

/// Install a component, in the place of the plugin of its name; nothing that runs is disturbed
#[utoipa::path(put, path = "/api/v1/plugins", tag = "plugins", operation_id = "install_plugin",
    params(("x-twinspan-signature" = Option<String>, Header,
            description = "Ed25519 signature of the component, in hexadecimal")),
    request_body(content = Vec<u8>, content_type = "application/wasm"),
    responses((status = 200, body = api::Plugin), (status = "default", body = api::Problem)))]
pub(super) async fn install(
    State(gateway): Shared,
    headers: HeaderMap,
    component: Bytes,
) -> Result<Json<api::Plugin>, Failure> {
    let signature = headers.get(SIGNATURE).map(|text| {
        text.to_str().ok().and_then(bytes).ok_or_else(|| {
            let detail = format!("{SIGNATURE} is no hexadecimal text");
            Failure::new(api::Code::Invalid, detail)
        })
    });
    let signature = signature.transpose()?;
    Ok(Json(gateway.install_plugin(component.to_vec(), signature).await?))
}

/// What a text of hexadecimal digits means.
fn bytes(text: &str) -> Option<Vec<u8>> {
    // A number may begin with a sign; a digit may not be one.
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    is_hex.then(|| (0..text.len()).step_by(2).map(pair).collect())?
}

/// One plugin
#[utoipa::path(get, path = "/api/v1/plugins/{plugin}", tag = "plugins",
    operation_id = "show_plugin", params(("plugin" = String, Path)),
    responses((status = 200, body = api::Plugin), (status = "default", body = api::Problem)))]
pub(super) async fn show(
    State(gateway): Shared,
    Path(plugin): Path<String>,
) -> Result<Json<api::Plugin>, Failure> {
    Ok(Json(gateway.show_plugin(&plugin)?))
}

/// How to remove a plugin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    #[serde(default)]
    forget: bool,
}

/// Remove a plugin; with `forget` also what it was granted and what it kept
#[utoipa::path(delete, path = "/api/v1/plugins/{plugin}", tag = "plugins",
    operation_id = "remove_plugin",
    params(("plugin" = String, Path), ("forget" = Option<bool>, Query)),
    responses((status = 204), (status = "default", body = api::Problem)))]
pub(super) async fn remove(
    State(gateway): Shared,
    Path(plugin): Path<String>,
    Query(removal): Query<Removal>,
) -> Result<StatusCode, Failure> {
    gateway.remove_plugin(&plugin, removal.forget).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change what a plugin may
#[utoipa::path(post, path = "/api/v1/plugins/{plugin}/grants", tag = "plugins",
    operation_id = "grant_plugin", params(("plugin" = String, Path)),
    request_body = api::PluginGrants,
    responses((status = 200, body = api::Plugin), (status = "default", body = api::Problem)))]
pub(super) async fn grant(
    State(gateway): Shared,
    Path(plugin): Path<String>,
    Body(grants): Body<api::PluginGrants>,
) -> Result<Json<api::Plugin>, Failure> {
    Ok(Json(gateway.grant_plugin(&plugin, &grants)?))
}

/// Set a plugin's configuration: an object that fits its schema
#[utoipa::path(put, path = "/api/v1/plugins/{plugin}/config", tag = "plugins",
    operation_id = "configure_plugin", params(("plugin" = String, Path)),
    request_body(content = Object),
    responses((status = 200, body = api::Plugin), (status = "default", body = api::Problem)))]
pub(super) async fn configure(
    State(gateway): Shared,
    Path(plugin): Path<String>,
    Body(config): Body<serde_json::Value>,
) -> Result<Json<api::Plugin>, Failure> {
    Ok(Json(gateway.configure_plugin(&plugin, config).await?))
}

/// Ask a plugin whether it could work now
#[utoipa::path(post, path = "/api/v1/plugins/{plugin}/probe", tag = "plugins",
    operation_id = "probe_plugin", params(("plugin" = String, Path)),
    responses((status = 200, body = api::PluginProbe), (status = "default", body = api::Problem)))]
pub(super) async fn probe(
    State(gateway): Shared,
    Path(plugin): Path<String>,
    Body(_nothing): Body<serde_json::Value>,
) -> Result<Json<api::PluginProbe>, Failure> {
    Ok(Json(gateway.probe_plugin(&plugin).await?))
}

/// The last lines that a plugin said
#[utoipa::path(get, path = "/api/v1/plugins/{plugin}/log", tag = "plugins",
    operation_id = "plugin_log", params(("plugin" = String, Path)),
    responses((status = 200, body = api::PluginLog), (status = "default", body = api::Problem)))]
pub(super) async fn log(
    State(gateway): Shared,
    Path(plugin): Path<String>,
) -> Result<Json<api::PluginLog>, Failure> {
    Ok(Json(gateway.plugin_log(&plugin)?))
}

/// What a plugin can be told
#[utoipa::path(get, path = "/api/v1/plugins/{plugin}/words", tag = "plugins",
    operation_id = "plugin_words", params(("plugin" = String, Path)),
    responses((status = 200, body = api::PluginWords), (status = "default", body = api::Problem)))]
pub(super) async fn words(
    State(gateway): Shared,
    Path(plugin): Path<String>,
) -> Result<Json<api::PluginWords>, Failure> {
    Ok(Json(gateway.plugin_words(&plugin).await?))
}

/// Tell a plugin a word, with an object; another product calls this where something changed there
#[utoipa::path(post, path = "/api/v1/plugins/{plugin}/words/{word}", tag = "plugins",
    operation_id = "say_to_plugin", params(("plugin" = String, Path), ("word" = String, Path)),
    request_body(content = Object),
    responses((status = 200, body = Object), (status = "default", body = api::Problem)))]
pub(super) async fn say(
    State(gateway): Shared,
    Extension(Caller(actor)): Extension<Caller>,
    Path((plugin, word)): Path<(String, String)>,
    Body(params): Body<serde_json::Map<String, serde_json::Value>>,
) -> Result<Json<serde_json::Value>, Failure> {
    let said = gateway.say_to_plugin(&plugin, (&word, &params.into()), &actor).await?;
    Ok(Json(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_is_bytes_and_nothing_else_is() {
        assert_eq!(bytes("00ffA1"), Some(vec![0, 0xff, 0xa1]));
        assert_eq!(bytes(""), Some(vec![]));
        for text in ["0", "0g", "äa", "+1"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
