//! A small FTP server (RFC 959, RFC 2428): `RETR N` sends [`content`]`(N)`, in passive and in active
//! mode.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::echo::TcpService;
use super::http::content;
use crate::lab::error::Result;
use crate::lab::namespace::Namespace;

/// How long the server tries to reach a client in active mode.
const CONNECT: Duration = Duration::from_secs(2);

/// A running server.
#[derive(Debug)]
pub struct FtpServer {
    service: TcpService,
    asked: Arc<Mutex<Vec<SocketAddr>>>,
}

impl FtpServer {
    /// Starts a server in `namespace`. It listens when this returns.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let asked = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let (known, host) = (Arc::clone(&asked), namespace.clone());
        let serve = move |stream: TcpStream| {
            let session = Session { namespace: host.clone(), known: Arc::clone(&known) };
            // A client that goes away is the client's affair.
            drop(session.serve(&stream));
        };
        Ok(Self { service: TcpService::start(namespace, address, serve)?, asked })
    }

    /// Who has connected so far, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.service.peers()
    }

    /// Where clients wanted to be connected to in active mode, as they wrote it.
    #[must_use]
    pub fn asked_to_connect_to(&self) -> Vec<SocketAddr> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Session {
    namespace: Namespace,
    known: Arc<Mutex<Vec<SocketAddr>>>,
}

/// How the next data connection is made.
enum Data {
    None,
    Passive(TcpListener),
    Active(SocketAddr),
}

impl Session {
    fn serve(&self, mut control: &TcpStream) -> io::Result<()> {
        let local = control.local_addr()?.ip();
        let mut data = Data::None;
        let mut lines = BufReader::new(control).lines();
        control.write_all(b"220 ready\r\n")?;
        while let Some(line) = lines.next().transpose()? {
            let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
            let answer = match verb {
                "USER" => "230 welcome".to_owned(),
                "PWD" => "257 \"/\"".to_owned(),
                "CWD" | "TYPE" => "200 fine".to_owned(),
                "EPSV" => {
                    let listener = self.listen(local)?;
                    let port = listener.local_addr()?.port();
                    data = Data::Passive(listener);
                    format!("229 here (|||{port}|)")
                }
                "EPRT" | "PORT" => match endpoint(verb, argument) {
                    Some(client) => {
                        self.known.lock().unwrap_or_else(PoisonError::into_inner).push(client);
                        data = Data::Active(client);
                        "200 fine".to_owned()
                    }
                    None => "501 no endpoint".to_owned(),
                },
                "RETR" => match self.connect(std::mem::replace(&mut data, Data::None)) {
                    Ok(mut stream) => {
                        control.write_all(b"150 here it comes\r\n")?;
                        let length = argument.trim_start_matches('/').parse().unwrap_or(0);
                        stream.write_all(&content(length))?;
                        "226 done".to_owned()
                    }
                    Err(error) => format!("425 {error}"),
                },
                "QUIT" => break,
                _ => "502 unknown".to_owned(),
            };
            write!(control, "{answer}\r\n")?;
        }
        control.write_all(b"221 bye\r\n")
    }

    fn listen(&self, local: IpAddr) -> io::Result<TcpListener> {
        self.namespace.enter(|| TcpListener::bind((local, 0))).map_err(io::Error::other)?
    }

    fn connect(&self, data: Data) -> io::Result<TcpStream> {
        match data {
            Data::None => Err(io::ErrorKind::NotConnected.into()),
            Data::Passive(listener) => Ok(listener.accept()?.0),
            Data::Active(client) => self
                .namespace
                .enter(|| TcpStream::connect_timeout(&client, CONNECT))
                .map_err(io::Error::other)?,
        }
    }
}

/// `|1|192.0.2.1|50000|` of EPRT, `192,0,2,1,195,80` of PORT.
fn endpoint(verb: &str, argument: &str) -> Option<SocketAddr> {
    if verb == "EPRT" {
        let mut fields = argument.split('|').skip(2);
        let address: IpAddr = fields.next()?.parse().ok()?;
        return Some(SocketAddr::new(address, fields.next()?.parse().ok()?));
    }
    let numbers: Option<Vec<u8>> = argument.split(',').map(|field| field.parse().ok()).collect();
    let [a, b, c, d, high, low] = numbers?[..] else { return None };
    Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
}
