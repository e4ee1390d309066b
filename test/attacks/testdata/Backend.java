// An embedded Tomcat that says which of its servlets a request was mapped to, and
// under which path: Backend PORT.

import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.File;
import java.io.IOException;
import java.nio.file.Files;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;

public class Backend {
    static class Place extends HttpServlet {
        private final String under;

        Place(String under) {
            this.under = under;
        }

        @Override
        protected void service(HttpServletRequest request, HttpServletResponse response) throws IOException {
            String info = request.getPathInfo();
            String path = request.getServletPath() + (info == null ? "" : info);
            response.setContentType("text/plain; charset=utf-8");
            synchronized (System.out) {
                System.out.println("seen " + request.getHeader("x-number") + " " + under + " " + hex(path) + " " + hex(request.getRequestURI()));
                System.out.flush();
            }
            response.getWriter().println("seen");
        }
    }

    static String hex(String text) {
        StringBuilder out = new StringBuilder();
        for (byte b : text.getBytes(java.nio.charset.StandardCharsets.UTF_8)) {
            out.append(String.format("%02x", b));
        }
        return out.toString();
    }

    public static void main(String[] args) throws Exception {
        File dir = Files.createTempDirectory("tomcat").toFile();
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir(dir.getPath());
        tomcat.setHostname("127.0.0.1");
        tomcat.setPort(Integer.parseInt(args[0]));
        tomcat.getConnector().setProperty("address", "127.0.0.1");
        Context context = tomcat.addContext("", dir.getPath());
        String[] places = {"/open/*", "/open/private/*", "/docs/*", "/admin/*", "/"};
        for (String place : places) {
            Tomcat.addServlet(context, place, new Place(place));
            context.addServletMappingDecoded(place, place);
        }
        tomcat.start();
        tomcat.getServer().await();
    }
}
