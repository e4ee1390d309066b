"""A workload that knows nothing of Kith: the SPIFFE libraries for Python.

What it does and prints is said in ../libraries/libraries_test.go.
"""

import logging
import socket
import sys
import threading
import warnings

from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier
from OpenSSL import SSL
from spiffe import JwtSvid, SpiffeId, WorkloadApiClient, X509Source
from spiffetls import create_ssl_context, dial
from spiffetls.tlsconfig.authorize import authorize_id, authorize_member_of

OTHER_AUDIENCE = "somebody-else"
PATIENCE = 60.0

saying = threading.Lock()  # watches speak from threads of their own, and print writes a line in pieces

warnings.simplefilter("ignore", DeprecationWarning)  # spiffe-tls uses what spiffe has deprecated
logging.disable()  # this program says itself what happens


def say(*words):
    with saying:
        print(*words, flush=True)


def denied(err):
    return "PERMISSION_DENIED" in str(err)


def names(bundles):
    return ",".join(sorted(str(b.trust_domain) for b in bundles))


def serial(cert):
    return format(cert.serial_number, "x")


def print_x509(context):
    svid = context.default_svid
    say("x509", svid.spiffe_id, serial(svid.leaf), names(context.x509_bundle_set.bundles))


def on_error(what):
    return lambda err: say("denied" if denied(err) else "error", what, "" if denied(err) else err)


def peer_id(connection):
    cert = connection.get_peer_certificate().to_cryptography()
    sans = cert.extensions.get_extension_for_class(SubjectAlternativeName).value
    return sans.get_values_for_type(UniformResourceIdentifier)[0]


def line(connection):
    text = b""
    while not text.endswith(b"\n"):
        text += connection.recv(1024)
    return text.decode().strip()


def answer(conn, source, domain):
    # Of spiffetls.listen all connections would share one context, which shows the
    # first certificate for ever: pyOpenSSL 26.2 lets no context in use be changed.
    mutual = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context = create_ssl_context(SSL.TLS_SERVER_METHOD, source, authorize_member_of(domain), mutual)
    connection = SSL.Connection(context, conn)
    connection.set_accept_state()
    try:
        connection.do_handshake()
        peer = peer_id(connection)
        line(connection)
        connection.sendall(f"hello {peer}\n".encode())
        connection.shutdown()
    except (SSL.Error, OSError) as err:
        say("rejected", err)
    finally:
        connection.close()


def serve(port):
    client = WorkloadApiClient()
    # With retries the library would not say why a stream has ended.
    client.stream_x509_contexts(print_x509, on_error("x509"), retry_connect=False)
    client.stream_jwt_bundles(
        lambda b: say("jwtbundles", names(b.bundles)), on_error("jwtbundles"), retry_connect=False
    )
    source = X509Source(timeout_in_seconds=PATIENCE)
    domain = source.get_x509_context().default_svid.spiffe_id.trust_domain
    listener = socket.create_server(("127.0.0.1", int(port)))
    say("listening")
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=answer, args=(conn, source, domain), daemon=True).start()


def refuses_audience(client, token, bundle):
    for validate in (
        lambda: JwtSvid.parse_and_validate(token, bundle, {OTHER_AUDIENCE}),
        lambda: client.validate_jwt_svid(token, OTHER_AUDIENCE),
    ):
        try:
            validate()
            return False
        except Exception:  # each library has its own
            continue
    return True


def call(audience, targets):
    client = WorkloadApiClient(default_timeout=PATIENCE)
    try:
        context = client.fetch_x509_context()
    except Exception as err:
        if not denied(err):
            raise
        say("denied x509")
        return 3
    print_x509(context)
    say("x509bundles", names(client.fetch_x509_bundles().bundles))
    jwt = client.fetch_jwt_svid({audience})
    say("jwt", jwt.spiffe_id, ",".join(jwt.audience))
    bundles = client.fetch_jwt_bundles()
    say("jwtbundles", names(bundles.bundles))
    bundle = bundles.get_bundle_for_trust_domain(jwt.spiffe_id.trust_domain)
    say("verified", JwtSvid.parse_and_validate(jwt.token, bundle, {audience}).spiffe_id)
    say("validated", client.validate_jwt_svid(jwt.token, audience).spiffe_id)
    if refuses_audience(client, jwt.token, bundle):
        say("refused-audience")

    source = X509Source(timeout_in_seconds=PATIENCE)
    for target in targets:
        port, wanted = target.split("=", 1)
        try:
            connection = dial(f"127.0.0.1:{port}", source, authorize_fn=authorize_id(SpiffeId(wanted)))
            leaf = connection.get_peer_certificate().to_cryptography()
            connection.sendall(b"hi\n")
            say("called", wanted, serial(leaf), line(connection))
            connection.close()
        except Exception as err:  # the library wraps some of OpenSSL's errors and not others
            say("refused", wanted, repr(err))
    return 0


def main(args):
    if args[:1] == ["serve"]:
        serve(args[1])
    if args[:1] == ["call"]:
        return call(args[1], args[2:])
    raise SystemExit("want: serve PORT | call AUDIENCE PORT=ID...")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
