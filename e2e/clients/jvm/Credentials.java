import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Prints the id of an access key. The sockets of a JVM are dual-stack ones. */
class Credentials {
    public static void main(String[] args) throws IOException {
        String roles = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";
        String document = get(roles + get(roles));
        Matcher id = Pattern.compile("\"AccessKeyId\" : \"(\\w+)\"").matcher(document);
        if (!id.find()) {
            throw new IOException("no access key");
        }
        System.out.println(id.group(1));
    }

    private static String get(String url) throws IOException {
        HttpURLConnection connection = (HttpURLConnection) URI.create(url).toURL().openConnection();
        connection.setConnectTimeout(1000);
        connection.setReadTimeout(1000);
        return new String(connection.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    }
}
