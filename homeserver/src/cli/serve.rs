//! `hearth serve`: the server, until a signal ends it.

use std::{net::SocketAddr, path::PathBuf, pin::pin, process};

use clap::Args;

use super::Failure;
use crate::{
    config::{Loaded, Service, Settings},
    logging, metrics,
    server::Server,
    signals::{Request, Signals},
};

/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Default, Args)]
pub(super) struct Serve {
    /// Once the server is up, print how to make a user and point a client at it
    #[arg(long)]
    welcome: bool,
}

pub(super) fn run(loaded: Loaded, arguments: &Serve) -> Result<(), Failure> {
    logging::start(&loaded.settings.log);
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(loaded, arguments.welcome))
}

async fn serve(loaded: Loaded, welcome: bool) -> Result<(), Failure> {
    let Loaded { settings, file } = loaded;
    let mut signals = Signals::new()?;
    let handle = metrics::install()?;
    tokio::spawn(metrics::keep_up(handle.clone()));
    let file = file
        .as_deref()
        .map_or("none, the defaults of a local trial".into(), |file| {
            file.to_string_lossy()
        });
    tracing::info!(server_name = %settings.server_name, configuration = %file, version = env!("CARGO_PKG_VERSION"), "starting");

    let mut start = pin!(Server::start(&settings, Some(handle)));
    let server = tokio::select! {
        server = start.as_mut() => server?,
        // What is half built is finished first: then it can be taken apart in order.
        () = signals.stop() => {
            tokio::select! {
                server = start => server?.stop().await,
                () = signals.stop() => end_at_once(),
            }
            return Ok(());
        }
    };
    announce(&settings, &server);
    if welcome {
        print_welcome(&settings, server.addresses());
    }

    while signals.next().await == Request::Reload {
        server.reload_certificates();
    }
    tracing::info!("stopping: requests under way have 10 s; a second signal ends at once");
    tokio::select! {
        () = server.stop() => {}
        () = signals.stop() => end_at_once(),
    }
    tracing::info!("stopped");
    Ok(())
}

fn end_at_once() -> ! {
    tracing::warn!("ended at once");
    process::exit(INTERRUPTED);
}

fn announce(settings: &Settings, server: &Server) {
    for (listener, address) in settings.listeners.iter().zip(server.addresses()) {
        let protocol = if listener.tls_certificate.is_some() {
            "https"
        } else {
            "http"
        };
        tracing::info!("listening on {protocol}://{address}");
    }
}

fn print_welcome(settings: &Settings, addresses: &[SocketAddr]) {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("hearth"));
    let directory = std::env::current_dir().unwrap_or_default();
    let name = &settings.server_name;
    let listener = settings
        .listeners
        .iter()
        .zip(addresses)
        .find(|(listener, _)| listener.serves(Service::Client));
    let Some((listener, address)) = listener else {
        return;
    };
    let protocol = if listener.tls_certificate.is_some() {
        "https"
    } else {
        "http"
    };
    let url = settings
        .public_url
        .clone()
        .unwrap_or_else(|| format!("{protocol}://{address}"));
    println!();
    println!("Hearth is up. It listens on {protocol}://{address}; its users are called @someone:{name}.");
    println!();
    println!("Make a first user, in another terminal:");
    // Where the data is was said by the environment: the command has to hear it too.
    let data_dir = std::env::var("HEARTH_DATA_DIR")
        .map_or_else(|_| String::new(), |dir| format!("HEARTH_DATA_DIR={dir} "));
    println!(
        "    cd {} && {data_dir}{} user add alice",
        directory.display(),
        program.display()
    );
    if settings.registration.open {
        println!("or register from a client: registration is open.");
    }
    println!();
    println!("Point a client at it: give {url} as the homeserver, and log in. In Element that is");
    println!("\"Sign in\", then \"Edit\" beside the homeserver. README.md has a conversation by curl.");
    println!();
    println!("Ctrl-C ends it.");
}

/// Each connection is a file: the usual limit of 1,024 is the system's caution about old programs, not about us.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
