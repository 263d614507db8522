// What moves on the picture: a dot for each message on its way, and the pulse of each node. On a canvas above the drawing, so that
// nothing else has to be drawn anew for it.
//
// Stands still while the page is hidden or nothing moves. Never done here: choosing messages (sample.ts).
import type { WireRecord } from '../wire/types';
import { refused } from '../wire/types';
import type { Spot } from './layout';

/** A message takes so long from one node to the other. */
const TRAVEL_MS = 1_100;
/** Half of a batch's messages would begin at once: they are spread as far as their times are apart, at most so far. */
const SPREAD_MS = 1_000;
const RADIUS = 4.2;
/** A click so near to a dot means it, pixels of the screen. */
const REACH_PX = 16;
/** Most that are on their way; beyond, new ones wait for the next batch. */
const DOTS_MAX = 400;
/** How often nodes of each level of health pulse; the times of the first dashboard. */
export const PULSE_MS = [2_000, 1_000, 1_000, 500] as const;

export type Level = 0 | 1 | 2 | 3;

interface Dot {
  record: WireRecord;
  from: Spot;
  to: Spot;
  level: Level;
  startMs: number;
  bend: number;
}

export interface Beat {
  spot: Spot;
  radius: number;
  level: Level;
}

export class Dots {
  /** Dots that were begun since this was made, and frames that were drawn. */
  drawn = 0;
  frames = 0;
  beats: Beat[] = [];
  /** Pixels of the screen per unit of the layout. */
  private scale = 1;
  private dots: Dot[] = [];
  private frame = 0;
  private colours: string[] = [];
  private outline = '';
  private readonly context: CanvasRenderingContext2D | null;

  constructor(private readonly canvas: HTMLCanvasElement) {
    this.context = canvas.getContext('2d');
  }

  /** Takes over size and colours. */
  fit(width: number, height: number, unitsWide: number): void {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.scale = width / unitsWide;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.context?.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(this.canvas);
    this.colours = [0, 1, 2, 3].map((level) => style.getPropertyValue(`--level-${level}`).trim());
    this.outline = style.getPropertyValue('--panel').trim();
  }

  /** Messages that begin their way now, one after the other as they were sent. */
  add(batch: { record: WireRecord; from: Spot; to: Spot; level: Level }[]): void {
    const times = batch.map(({ record }) => Date.parse(record.at));
    const first = Math.min(...times);
    const now = performance.now();
    batch.forEach((one, at) => {
      if (this.dots.length >= DOTS_MAX) return;
      const apart = Math.min(SPREAD_MS, (times[at] ?? first) - first);
      const bend = ((at % 5) - 2) * 0.05;
      this.dots.push({ ...one, startMs: now + apart, bend });
      this.drawn += 1;
    });
  }

  start(): void {
    if (this.frame === 0) this.frame = requestAnimationFrame(this.draw);
  }

  stop(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.dots = [];
    this.context?.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  private place(dot: Dot, now: number): { x: number; y: number } | null {
    const part = (now - dot.startMs) / TRAVEL_MS;
    if (part < 0 || part > 1) return null;
    const eased = part < 0.5 ? 2 * part * part : 1 - (2 - 2 * part) ** 2 / 2;
    const [dx, dy] = [dot.to.x - dot.from.x, dot.to.y - dot.from.y];
    // A little to the side, so that a question and its answer do not run over each other.
    const side = Math.sin(Math.PI * eased) * (0.06 + dot.bend);
    return { x: (dot.from.x + dx * eased - dy * side) * this.scale, y: (dot.from.y + dy * eased + dx * side) * this.scale };
  }

  private readonly draw = (now: number): void => {
    this.frame = requestAnimationFrame(this.draw);
    this.frames += 1;
    const context = this.context;
    if (context === null) return;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.lineWidth = 2;
    for (const beat of this.beats) {
      const every = PULSE_MS[beat.level];
      const part = ((now + beat.spot.x * 7) % every) / every;
      context.globalAlpha = 0.55 * (1 - part);
      context.strokeStyle = this.colours[beat.level] ?? '';
      context.beginPath();
      context.arc(beat.spot.x * this.scale, beat.spot.y * this.scale, (beat.radius + 2 + 9 * part) * this.scale, 0, 2 * Math.PI);
      context.stroke();
    }
    context.globalAlpha = 1;
    const radius = Math.max(3, RADIUS * this.scale);
    let over = 0;
    for (const dot of this.dots) {
      const place = this.place(dot, now);
      if (place === null) {
        if (now > dot.startMs + TRAVEL_MS) over += 1;
        continue;
      }
      const bad = refused(dot.record.verdict);
      context.beginPath();
      context.arc(place.x, place.y, bad ? radius * 1.25 : radius, 0, 2 * Math.PI);
      if (bad) {
        context.strokeStyle = this.colours[3] ?? '';
        context.lineWidth = 2.5;
        context.stroke();
      } else {
        context.fillStyle = this.colours[dot.level] ?? '';
        context.strokeStyle = this.outline;
        context.lineWidth = 1.5;
        context.fill();
        context.stroke();
      }
    }
    if (over > 40 || (over > 0 && over === this.dots.length)) this.dots = this.dots.filter((dot) => now <= dot.startMs + TRAVEL_MS);
  };

  /** The message under a place of the screen, if one is near. */
  at(x: number, y: number): WireRecord | null {
    const now = performance.now();
    let best: WireRecord | null = null;
    let nearest = REACH_PX;
    for (const dot of this.dots) {
      const place = this.place(dot, now);
      const distance = place ? Math.hypot(place.x - x, place.y - y) : Infinity;
      if (distance < nearest) {
        nearest = distance;
        best = dot.record;
      }
    }
    return best;
  }
}
