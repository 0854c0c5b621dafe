//! Commands that ask no gateway: `serve`, `config`, completions, the manual.

use std::path::Path;

use clap::CommandFactory;

use crate::Outcome;
use crate::args::{Arguments, Config};
use crate::failure::{BAD_CONFIG, FAILED, Failure};

/// `twinspan serve`
pub(crate) fn serve(file: Option<&Path>) -> Outcome {
    let config = server::config::load(file).map_err(|error| config_failure(&error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FAILED, format!("start the runtime: {error}")))?;
    runtime
        .block_on(server::run(config))
        .map_err(|error| Failure::new(FAILED, error.to_string()))?;
    Ok(0)
}

fn config_failure(error: &server::config::ConfigError) -> Failure {
    let mut failure = Failure::coded(error.code(), error.to_string());
    failure.exit = BAD_CONFIG;
    failure
}

/// `twinspan config`
pub(crate) fn config(command: &Config) -> Outcome {
    match command {
        Config::Check { file } => {
            server::config::load(Some(file)).map_err(|error| config_failure(&error))?;
        }
        Config::Show { file } => {
            let text = server::config::effective_toml(file.as_deref());
            print!("{}", text.map_err(|error| config_failure(&error))?);
        }
    }
    Ok(0)
}

/// `twinspan completions`
#[expect(clippy::unnecessary_wraps, reason = "all commands have one shape")]
pub(crate) fn completions(shell: clap_complete::Shell) -> Outcome {
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "twinspan", &mut std::io::stdout());
    Ok(0)
}

/// `twinspan man`
pub(crate) fn man() -> Outcome {
    clap_mangen::Man::new(Arguments::command())
        .render(&mut std::io::stdout())
        .map_err(|error| Failure::new(FAILED, format!("write the manual: {error}")))?;
    Ok(0)
}

/// `twinspan openapi`
#[expect(clippy::unnecessary_wraps, reason = "all commands have one shape")]
pub(crate) fn openapi() -> Outcome {
    print!("{}", server::openapi());
    Ok(0)
}
