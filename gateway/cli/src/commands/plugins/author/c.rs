//! A plugin in C: bindings are generated, clang makes a module of it, and that becomes a component.

use std::path::Path;

use wit_bindgen_core::Files;
use wit_component::ComponentEncoder;
use wit_parser::Resolve;

use super::cannot;
use super::tools::Tool;
use crate::failure::{FAILED, Failure};

/// The name under which a C library calls the system, and what a component has in its place.
const ADAPTER: &str = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;

/// Builds it.
pub(super) fn build(folder: &Path, world: &str, out: &Path) -> Result<(), Failure> {
    let written = bindings(folder, world)?;
    let module = folder.join("bindings/plugin.wasm");
    let module_name = module.display().to_string();
    let flags = ["--target=wasm32-wasi", "-mexec-model=reactor", "-Os", "-Wall", "-o"];
    let mut words = flags.to_vec();
    words.extend([module_name.as_str(), "plugin.c"]);
    let sources = written.iter().filter(|file| !file.ends_with(".h"));
    words.extend(sources.map(String::as_str));
    Tool::CLANG.run(folder, &words)?;
    let bytes = std::fs::read(&module).map_err(|error| cannot("read", &module, &error))?;
    let component = component(&bytes).map_err(|error| {
        let what = format!("what clang made is no component: {error:#}");
        Failure::new(FAILED, what).next("does plugin.c define every function of the bindings?")
    })?;
    std::fs::write(out, component).map_err(|error| cannot("write", out, &error))
}

fn component(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    let adapter = wasi_preview1_component_adapter_provider::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER;
    let mut encoder = ComponentEncoder::default().module(module)?;
    encoder = encoder.adapter(ADAPTER, adapter)?;
    encoder.validate(true).encode()
}

/// Generates what lies between C and the contract; answers the files, relative to the folder.
fn bindings(folder: &Path, world: &str) -> Result<Vec<String>, Failure> {
    let wit = folder.join("wit");
    let wrong = |error: anyhow::Error| {
        Failure::new(FAILED, format!("{}: {error:#}", wit.display()))
            .next("it holds the contract, as twinspan plugin new wrote it")
    };
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(&wit).map_err(wrong)?;
    let world = resolve.select_world(&[package], Some(world)).map_err(wrong)?;
    let mut files = Files::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator.generate(&mut resolve, world, &mut files).map_err(wrong)?;
    let at = folder.join("bindings");
    std::fs::create_dir_all(&at).map_err(|error| cannot("make", &at, &error))?;
    let mut written = Vec::new();
    for (name, bytes) in files.iter() {
        let path = at.join(name);
        std::fs::write(&path, bytes).map_err(|error| cannot("write", &path, &error))?;
        written.push(format!("bindings/{name}"));
    }
    Ok(written)
}
