// Builds `dist`: one page, one stylesheet, one script and the chunks that it loads later. Run by `npm run build` and by build.rs.
//
// Names of entries are fixed, those of chunks carry a hash of their content, so that they can be cached for ever.
import { build, context } from 'esbuild';
import { cp, mkdir, rm } from 'node:fs/promises';

const options = {
  entryPoints: { app: 'src/main.tsx', style: 'src/style/main.css' },
  outdir: 'dist',
  bundle: true,
  splitting: true,
  format: 'esm',
  target: ['es2022', 'firefox115', 'safari16.4', 'chrome110'],
  chunkNames: 'chunks/[name]-[hash]',
  jsx: 'automatic',
  jsxImportSource: 'preact',
  minify: !process.argv.includes('--watch'),
  sourcemap: false,
  legalComments: 'none',
  logLevel: 'warning',
};

await rm('dist', { recursive: true, force: true });
await mkdir('dist', { recursive: true });
await cp('src/index.html', 'dist/index.html');
if (process.argv.includes('--watch')) await (await context(options)).watch();
else await build(options);
