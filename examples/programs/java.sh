# The virtual machine's own libraries: networking, files, compression.
# needs: java javac

prepare() {
    cat > Small.java <<'END'
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.util.zip.*;

public class Small {
    public static void main(String[] arguments) throws Exception {
        CRC32 crc = new CRC32();
        crc.update("abc".getBytes());
        ByteArrayOutputStream packed = new ByteArrayOutputStream();
        try (GZIPOutputStream out = new GZIPOutputStream(packed)) {
            out.write(new byte[10000]);
        }
        System.out.println(crc.getValue() + " " + packed.size());
        try (ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
             Socket client = new Socket(server.getInetAddress(), server.getLocalPort());
             Socket accepted = server.accept()) {
            client.getOutputStream().write(42);
            System.out.println(accepted.getInputStream().read());
        }
        Thread[] threads = new Thread[8];
        long[] sums = new long[8];
        for (int i = 0; i < 8; i++) {
            int own = i;
            threads[i] = new Thread(() -> { for (int n = 0; n < 1000000; n++) sums[own] += n ^ own; });
            threads[i].start();
        }
        for (Thread thread : threads) thread.join();
        System.out.println(java.util.Arrays.stream(sums).sum());
        Object nothing = null;
        try {
            nothing.hashCode();
        } catch (NullPointerException expected) {
            System.out.println("null is caught, by a signal");
        }
        System.out.println(Files.exists(Path.of("/etc/passwd")));
        System.exit(3);
    }
}
END
    javac Small.java
}

run() {
    java -version
    java -cp "$MADE" Small || echo "code $?"
}
