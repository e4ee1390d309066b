import io.spiffe.bundle.jwtbundle.JwtBundleSet;
import io.spiffe.bundle.x509bundle.X509BundleSet;
import io.spiffe.exception.JwtSvidException;
import io.spiffe.internal.CertificateUtils;
import io.spiffe.provider.SpiffeSslContextFactory;
import io.spiffe.provider.SpiffeSslContextFactory.SslContextOptions;
import io.spiffe.spiffeid.SpiffeId;
import io.spiffe.spiffeid.TrustDomain;
import io.spiffe.svid.jwtsvid.JwtSvid;
import io.spiffe.workloadapi.DefaultWorkloadApiClient;
import io.spiffe.workloadapi.DefaultWorkloadApiClient.ClientOptions;
import io.spiffe.workloadapi.DefaultX509Source;
import io.spiffe.workloadapi.Watcher;
import io.spiffe.workloadapi.WorkloadApiClient;
import io.spiffe.workloadapi.X509Context;
import io.spiffe.workloadapi.X509Source;
import io.spiffe.workloadapi.retry.ExponentialBackoffPolicy;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.InetAddress;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.util.Collection;
import java.util.Set;
import java.util.function.Consumer;
import java.util.logging.Level;
import java.util.logging.Logger;
import java.util.stream.Collectors;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;

/**
 * A workload that knows nothing of Kith: the SPIFFE library for Java. What it does and prints is
 * said in ../libraries/libraries_test.go.
 */
public final class Party {
    private static final String OTHER_AUDIENCE = "somebody-else";
    private static final int PATIENCE = 60_000;

    private Party() {
    }

    public static void main(String[] args) throws Exception {
        Logger.getLogger("").setLevel(Level.OFF); // it would print what this program says itself
        switch (args.length == 0 ? "" : args[0]) {
            case "serve" -> serve(Integer.parseInt(args[1]));
            case "call" -> System.exit(call(args[1], args));
            default -> throw new IllegalArgumentException("want: serve PORT | call AUDIENCE PORT=ID...");
        }
    }

    private static void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    private static boolean isDenied(Throwable err) {
        for (Throwable t = err; t != null; t = t.getCause()) {
            if (String.valueOf(t.getMessage()).startsWith("PERMISSION_DENIED")) { // as gRPC puts it
                return true;
            }
        }
        return false;
    }

    private static String names(Collection<TrustDomain> all) {
        return all.stream().map(TrustDomain::getName).sorted().collect(Collectors.joining(","));
    }

    private static void printX509(X509Context context) {
        var svid = context.getDefaultSvid();
        say("x509 " + svid.getSpiffeId() + " " + svid.getLeaf().getSerialNumber().toString(16)
                + " " + names(context.getX509BundleSet().getBundles().keySet()));
    }

    private static void printJwtBundles(JwtBundleSet bundles) {
        say("jwtbundles " + names(bundles.getBundles().keySet()));
    }

    /** A watcher that prints what it hears. */
    private static <T> Watcher<T> watcher(String what, Consumer<T> print) {
        return new Watcher<>() {
            @Override
            public void onUpdate(T update) {
                print.accept(update);
            }

            @Override
            public void onError(Throwable err) {
                say(isDenied(err) ? "denied " + what : "error " + what + " " + err);
            }
        };
    }

    private static void serve(int port) throws Exception {
        // The library tells a watcher of an error once it does not try again.
        var once = new ExponentialBackoffPolicy(Duration.ofMillis(50), Duration.ofMillis(50), 1, 1);
        WorkloadApiClient watching =
                DefaultWorkloadApiClient.newClient(ClientOptions.builder().exponentialBackoffPolicy(once).build());
        watching.watchX509Context(watcher("x509", Party::printX509));
        watching.watchJwtBundles(watcher("jwtbundles", Party::printJwtBundles));

        X509Source source = DefaultX509Source.newSource();
        SSLContext tls = SpiffeSslContextFactory.getSslContext(
                SslContextOptions.builder().sslProtocol("TLSv1.3").x509Source(source).acceptAnySpiffeId().build());
        try (var listener = (SSLServerSocket) tls.getServerSocketFactory()
                .createServerSocket(port, 16, InetAddress.getLoopbackAddress())) {
            listener.setNeedClientAuth(true);
            say("listening");
            while (true) {
                var socket = (SSLSocket) listener.accept();
                new Thread(() -> answer(socket)).start();
            }
        }
    }

    private static void answer(SSLSocket socket) {
        try (socket) {
            socket.setSoTimeout(PATIENCE);
            socket.startHandshake();
            var peer = CertificateUtils.getSpiffeId((X509Certificate) socket.getSession().getPeerCertificates()[0]);
            line(socket);
            socket.getOutputStream().write(("hello " + peer + "\n").getBytes());
            socket.getOutputStream().flush();
        } catch (Exception err) {
            say("rejected " + err.getMessage());
        }
    }

    private static String line(SSLSocket socket) throws IOException {
        return new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
    }

    private static int call(String audience, String[] args) throws Exception {
        WorkloadApiClient client = DefaultWorkloadApiClient.newClient();
        X509Context context;
        try {
            context = client.fetchX509Context();
        } catch (Exception err) {
            if (!isDenied(err)) {
                throw err;
            }
            say("denied x509");
            return 3;
        }
        printX509(context);
        X509BundleSet roots = client.fetchX509Bundles();
        say("x509bundles " + names(roots.getBundles().keySet()));
        JwtSvid jwt = client.fetchJwtSvid(audience);
        say("jwt " + jwt.getSpiffeId() + " " + String.join(",", jwt.getAudience()));
        JwtBundleSet bundles = client.fetchJwtBundles();
        printJwtBundles(bundles);
        say("verified " + JwtSvid.parseAndValidate(jwt.marshal(), bundles, Set.of(audience)).getSpiffeId());
        say("validated " + client.validateJwtSvid(jwt.marshal(), audience).getSpiffeId());
        if (refusesAudience(client, jwt, bundles)) {
            say("refused-audience");
        }

        X509Source source = DefaultX509Source.newSource();
        for (int i = 2; i < args.length; i++) {
            String[] target = args[i].split("=", 2);
            try {
                say("called " + target[1] + " " + ask(source, Integer.parseInt(target[0]), target[1]));
            } catch (IOException err) {
                say("refused " + target[1] + " " + err.getMessage());
            }
        }
        return 0;
    }

    private static boolean refusesAudience(WorkloadApiClient client, JwtSvid jwt, JwtBundleSet bundles) throws Exception {
        try {
            JwtSvid.parseAndValidate(jwt.marshal(), bundles, Set.of(OTHER_AUDIENCE));
            return false;
        } catch (JwtSvidException ours) {
            try {
                client.validateJwtSvid(jwt.marshal(), OTHER_AUDIENCE);
                return false;
            } catch (JwtSvidException theirs) {
                return true;
            }
        }
    }

    private static String ask(X509Source source, int port, String id) throws Exception {
        SSLContext tls = SpiffeSslContextFactory.getSslContext(SslContextOptions.builder().sslProtocol("TLSv1.3")
                .x509Source(source).acceptedSpiffeIdsSupplier(() -> Set.of(SpiffeId.parse(id))).build());
        try (var socket = (SSLSocket) tls.getSocketFactory().createSocket(InetAddress.getLoopbackAddress(), port)) {
            socket.setSoTimeout(PATIENCE);
            socket.startHandshake();
            var leaf = (X509Certificate) socket.getSession().getPeerCertificates()[0];
            socket.getOutputStream().write("hi\n".getBytes());
            socket.getOutputStream().flush();
            return leaf.getSerialNumber().toString(16) + " " + line(socket);
        }
    }
}
