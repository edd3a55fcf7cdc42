# A program whose interpreter, numerics and dynamically loaded functions are all libraries.
# needs: octave-cli

prepare() { :; }

run() {
    octave-cli --norc --quiet --eval '
        a = magic (4) + eye (4);
        printf ("%.6f ", inv (a)); disp ("");
        printf ("%.6f ", svd (a)); disp ("");
        printf ("%.6f ", real (fft (1:8))); disp ("");
        [t, y] = ode45 (@(t, y) -y, [0 1], 1); printf ("%.4f\n", y(end));
        printf ("%.6f\n", quadgk (@sin, 0, pi));
        s = sparse ([1 2 3], [1 2 3], [4 5 6]) \ [1; 2; 3]; printf ("%.6f ", s); disp ("");
        x = fzero (@cos, [0 3]); printf ("%.6f\n", x);
        disp (hash ("sha256", "abc"));
        try, error ("octave:some-id", "thrown"); catch e, disp (e.message); end
        [q, r] = deconv ([1 5 6 1], [1 2]); disp (q); disp (r);
        disp (regexprep ("hello", "l+", "L"));
    '
}
