EAPI=8

DESCRIPTION="A program that needs libswarm, for tests of hive"
HOMEPAGE="https://example.invalid/"
S="${WORKDIR}"

LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"
IUSE="+shout"

DEPEND=">=dev-libs/libswarm-1.0"
RDEPEND="${DEPEND}"

src_compile() {
	gcc ${CFLAGS} $(usex shout -DSHOUT '') -I"${ESYSROOT}"/usr/include -L"${ESYSROOT}"/usr/$(get_libdir) \
		-o hello-swarm "${FILESDIR}"/hello.c -lswarm || die "hello-swarm does not compile"
}

src_install() {
	dobin hello-swarm
}
