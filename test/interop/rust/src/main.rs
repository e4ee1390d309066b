//! A workload that knows nothing of Kith: the SPIFFE library for Rust. What it
//! does and prints is said in ../libraries/libraries_test.go.

use std::collections::BTreeSet;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rustls::pki_types::{CertificateDer, ServerName};
use spiffe::{
    JwtBundleSet, JwtSvid, TrustDomain, WorkloadApiClient, WorkloadApiError, X509BundleSet,
    X509Source, X509Svid,
};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const OTHER_AUDIENCE: &str = "somebody-else";
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => serve(&args[1]).await,
        Some("call") => call(&args[1], &args[2..]).await,
        _ => Err("want: serve PORT | call AUDIENCE PORT=ID...".into()),
    }
}

fn is_denied(err: &WorkloadApiError) -> bool {
    matches!(
        err,
        WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_)
    )
}

fn serial(leaf: &[u8]) -> String {
    match x509_parser::parse_x509_certificate(leaf) {
        Ok((_, cert)) => cert.tbs_certificate.serial.to_str_radix(16),
        Err(err) => format!("unreadable:{err}"),
    }
}

fn names<'a>(all: impl Iterator<Item = &'a TrustDomain>) -> String {
    let sorted: BTreeSet<String> = all.map(|td| td.as_str().to_owned()).collect();
    sorted.into_iter().collect::<Vec<_>>().join(",")
}

fn print_x509(svid: &X509Svid, bundles: &X509BundleSet) {
    let bundles = names(bundles.iter().map(|(td, _)| td));
    println!("x509 {} {} {bundles}", svid.spiffe_id(), serial(svid.leaf().as_bytes()));
}

fn print_jwt_bundles(bundles: &JwtBundleSet) {
    println!("jwtbundles {}", names(bundles.iter().map(|(td, _)| td)));
}

async fn serve(port: &str) -> Fallible<()> {
    let client = WorkloadApiClient::connect_env().await?;
    let mut contexts = client.stream_x509_contexts().await?;
    tokio::spawn(async move {
        while let Some(update) = contexts.next().await {
            match update {
                Ok(context) => {
                    if let Some(svid) = context.default_svid() {
                        print_x509(svid, context.bundle_set());
                    }
                }
                Err(err) if is_denied(&err) => println!("denied x509"),
                Err(err) => println!("error x509 {err}"),
            }
        }
    });
    let mut bundles = client.stream_jwt_bundles().await?;
    tokio::spawn(async move {
        while let Some(update) = bundles.next().await {
            match update {
                Ok(bundles) => print_jwt_bundles(&bundles),
                Err(err) if is_denied(&err) => println!("denied jwtbundles"),
                Err(err) => println!("error jwtbundles {err}"),
            }
        }
    });

    let source = X509Source::new().await?;
    let domain = source.svid()?.spiffe_id().trust_domain().clone();
    let config = mtls_server(source)
        .authorize(authorizer::trust_domains([domain])?)
        .build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("listening");
    loop {
        let (socket, _) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(Err(err)) = tokio::time::timeout(PATIENCE, answer(acceptor, socket)).await {
                println!("rejected {err}");
            }
        });
    }
}

async fn answer(acceptor: TlsAcceptor, socket: TcpStream) -> std::io::Result<()> {
    let mut stream = acceptor.accept(socket).await?;
    let peer = peer_id(stream.get_ref().1.peer_certificates());
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    stream.write_all(format!("hello {peer}\n").as_bytes()).await?;
    stream.shutdown().await
}

fn peer_id(chain: Option<&[CertificateDer<'_>]>) -> String {
    chain
        .and_then(|c| c.first())
        .and_then(|leaf| spiffe::cert::spiffe_id_from_der(leaf).ok())
        .map_or_else(|| "nobody".to_owned(), |id| id.to_string())
}

async fn call(audience: &str, targets: &[String]) -> Fallible<()> {
    let client = WorkloadApiClient::connect_env().await?;
    let context = match client.fetch_x509_context().await {
        Err(err) if is_denied(&err) => {
            println!("denied x509");
            exit(3);
        }
        other => other?,
    };
    let svid = context.default_svid().ok_or("no SVID")?;
    print_x509(svid, context.bundle_set());
    println!(
        "x509bundles {}",
        names(client.fetch_x509_bundles().await?.iter().map(|(td, _)| td))
    );
    let jwt = client.fetch_jwt_svid([audience], None).await?;
    println!("jwt {} {}", jwt.spiffe_id(), jwt.audience().join(","));
    let bundles = client.fetch_jwt_bundles().await?;
    print_jwt_bundles(&bundles);
    let local = JwtSvid::parse_and_validate(jwt.token(), &bundles, &[audience])?;
    println!("verified {}", local.spiffe_id());
    let asked = client.validate_jwt_token(audience, jwt.token()).await?;
    println!("validated {}", asked.spiffe_id());
    if client.validate_jwt_token(OTHER_AUDIENCE, jwt.token()).await.is_err()
        && JwtSvid::parse_and_validate(jwt.token(), &bundles, &[OTHER_AUDIENCE]).is_err()
    {
        println!("refused-audience");
    }

    let source = X509Source::new().await?;
    for target in targets {
        let (port, id) = target.split_once('=').ok_or("want PORT=ID")?;
        match tokio::time::timeout(PATIENCE, ask(source.clone(), port, id)).await? {
            Ok(said) => println!("called {id} {said}"),
            Err(err) => println!("refused {id} {err}"),
        }
    }
    Ok(())
}

async fn ask(source: X509Source, port: &str, id: &str) -> Fallible<String> {
    let config = mtls_client(source).authorize(authorizer::exact([id])?).build()?;
    let connector = TlsConnector::from(Arc::new(config));
    let socket = TcpStream::connect(format!("127.0.0.1:{port}")).await?;
    let mut stream = connector.connect(ServerName::try_from("127.0.0.1")?, socket).await?;
    let leaf = stream.get_ref().1.peer_certificates().map_or_else(String::new, |c| serial(&c[0]));
    stream.write_all(b"hi\n").await?;
    let mut line = String::new();
    BufReader::new(&mut stream).read_line(&mut line).await?;
    Ok(format!("{leaf} {}", line.trim_end()))
}
