EAPI=8

DESCRIPTION="A library of one function, for tests of hive"
HOMEPAGE="https://example.invalid/"
S="${WORKDIR}"

LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_compile() {
	gcc ${CFLAGS} -shared -fPIC -Wl,-soname,libswarm.so.1 -o libswarm.so.1 "${FILESDIR}"/swarm.c || die "libswarm does not compile"
}

src_install() {
	insinto /usr/include
	doins "${FILESDIR}"/swarm.h
	exeinto /usr/$(get_libdir)
	doexe libswarm.so.1
	dosym libswarm.so.1 /usr/$(get_libdir)/libswarm.so
}
