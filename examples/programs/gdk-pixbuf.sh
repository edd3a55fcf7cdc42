# Loaders of picture formats.
# needs: gdk-pixbuf-thumbnailer gdk-pixbuf-csource convert-im6.q16 /usr/lib/x86_64-linux-gnu/gdk-pixbuf-2.0/gdk-pixbuf-query-loaders

prepare() {
    convert-im6.q16 -size 32x32 gradient:red-blue picture.bmp
    for format in gif xpm ppm tga tiff ico xbm; do
        convert-im6.q16 picture.bmp "picture.$format"
    done
    echo '<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"><circle cx="16" cy="16" r="9" fill="red"/></svg>' > picture.svg
}

run() {
    /usr/lib/x86_64-linux-gnu/gdk-pixbuf-2.0/gdk-pixbuf-query-loaders
    for picture in "$MADE"/picture.*; do
        gdk-pixbuf-csource --raw "$picture" | md5sum
    done
    gdk-pixbuf-thumbnailer -s 16 "$MADE/picture.svg" small.png && test -s small.png
}
