# XS modules.
# needs: perl

prepare() { :; }

run() {
    perl -MPOSIX=floor -MList::Util=sum,shuffle -MDigest::SHA=sha256_hex -MStorable=freeze,thaw -MEncode -MSocket \
        -MData::Dumper -MTime::HiRes -MCompress::Raw::Zlib -MMath::BigInt=lib,FastCalc -MFile::Glob=bsd_glob -e '
        print floor(3.7), " ", sum(1 .. 10), " ", sha256_hex("abc"), " ", thaw(freeze([7]))->[0], "\n";
        print encode("UTF-16BE", "x"), inet_ntoa(inet_aton("127.0.0.1")), Dumper({ a => [1, 2] }), "\n";
        print Math::BigInt->new("123456789012345678901234567890")->bmul(7), "\n";'
}
